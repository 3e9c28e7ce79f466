"""What a protocol is to the server: a module of functions between a client's messages and what they ask for.

``PORT``, where its clients look by default; ``SINGLE``, whether an answer is one action instead of a chunk; ``CLOSES``,
whether a refusal ends the connection. ``parse(message, served)`` gives a ``Request``, or raises ``Refused``. ``answer(
actions, request, served, timing)``, ``refusal(text, tag)`` and ``greeting(served)`` make the messages that go back,
``greeting`` that which a new connection hears first, or None. No I/O, no state.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from pirl_core.serving.keys import Keys
from pirl_core.serving.policy import Policy
from pirl_core.types import Observation

Message = bytes | str


class Served(NamedTuple):
    """name: of the policy, as clients read it."""

    policy: Policy
    keys: Keys
    name: str


class Act(NamedTuple):
    """Actions are asked for. seed, decision: which start noise, where the client says. tag: the answer has it too."""

    observation: Observation
    seed: int | None = None
    decision: int | None = None
    tag: Any = None


class Begin(NamedTuple):
    """Another episode. reply: what is said to it; None for nothing."""

    seed: int | None = None
    reply: bytes | None = None


class Say(NamedTuple):
    """Nothing for the policy. reply: as of ``Begin``."""

    reply: bytes | None = None


Request = Act | Begin | Say


class Timing(NamedTuple):
    """Seconds. server: from the message to its answer. forward: of the policy in them; None where none was needed."""

    server: float
    forward: float | None


class Refused(Exception):  # noqa: N818 - says what happened
    """A message that cannot be served, told in one line. tag: of the message, as far as it was read."""

    def __init__(self, text: str, tag: Any = None) -> None:
        super().__init__(text)
        self.tag = tag


class Wire(Protocol):
    """A protocol's module."""

    PORT: int
    SINGLE: bool
    CLOSES: bool

    def parse(self, message: Any, served: Served) -> Request:
        """message: as the transport hands it on, bytes or text where it reads nothing of it itself."""
        ...

    def answer(self, actions: np.ndarray, request: Act, served: Served, timing: Timing) -> bytes:
        """actions: (R, A), or (A,) of a ``SINGLE`` protocol."""
        ...

    def refusal(self, text: str, tag: Any) -> Message: ...

    def greeting(self, served: Served) -> bytes | None: ...


def whole_number(found: Mapping[Any, Any], name: str) -> int | None:
    """An optional number, 0 or more, of a message. Raises ValueError for anything else under its name."""
    value = found.get(name)
    if value is None:
        return None
    if isinstance(value, np.integer):
        value = int(value)
    if type(value) is not int or not 0 <= value < 2**64:
        raise ValueError(f"{name} = {value!r:.40}: must be a whole number, 0 or more")
    return value


def about(served: Served) -> dict[str, Any]:
    """What the policy is, in plain values for a greeting."""
    interface, keys = served.policy.interface, served.keys
    return {
        "policy": served.name,
        "benchmark": interface.benchmark,
        "cameras": dict(keys.cameras),
        "state": {"keys": list(keys.state), "names": interface.state},
        "prompt": keys.prompt,
        "action": interface.action,
        "chunk": served.policy.flow.replan,
        "rate": interface.rate,
        # The client's own number that fixes an episode's start noise; see the protocol's ``parse``.
        "noise": "seed",
    }

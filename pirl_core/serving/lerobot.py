"""LeRobot's asynchronous inference (``async_inference`` of lerobot 0.6.1), in pickles of which ``unpickling`` knows.

A robot sends its motors as numbers by name, its cameras as images and a ``task``; the order of the numbers is that of
the features it announced. A chunk answers, each action with the time and the step at which it is meant.
"""

from typing import Any, NamedTuple

import numpy as np

from pirl_core.serving import unpickling
from pirl_core.serving.keys import read_observation
from pirl_core.serving.protocol import Act, Refused, Served, Timing

USUAL_RATE = 30
"""Actions a second of a client, where the policy does not say: LeRobot's own default."""

PORT = 8080
SINGLE = False
CLOSES = False
STATE = "observation.state"


class Setup(NamedTuple):
    """What a client announced. state: names of the motors, in order; actions: that it wants of a chunk."""

    state: list[str]
    actions: int


class Sent(NamedTuple):
    """An observation's payload, of a client with this set-up."""

    payload: bytes
    setup: Setup


class Moment(NamedTuple):
    """Of an observation, as its client counts. must_go: whether it has no more actions to execute."""

    timestamp: float
    timestep: int
    must_go: bool
    actions: int


def setup_of(payload: bytes) -> Setup:
    """Raises Refused."""
    try:
        found = unpickling.read(payload, unpickling.RemotePolicyConfig)
        features = found.get("lerobot_features")
        state = features.get(STATE) if isinstance(features, dict) else None
        names = state.get("names") if isinstance(state, dict) else []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"lerobot_features: {STATE} has no list of names")
        count = found.get("actions_per_chunk")
        if type(count) is not int or count < 1:
            raise ValueError(f"actions_per_chunk = {count!r:.40}: must be a whole number above 0")
        return Setup(names, count)
    except ValueError as error:
        raise Refused(str(error)) from None


def parse(message: Sent, served: Served) -> Act:
    """Raises Refused."""
    try:
        found = unpickling.read(message.payload, unpickling.TimedObservation)
        raw, timestamp, timestep = (found.get(name) for name in ("observation", "timestamp", "timestep"))
        if not isinstance(raw, dict):
            raise ValueError("observation: a map of motors and cameras is needed")
        if not isinstance(timestamp, float) or type(timestep) is not int or not abs(timestep) < 2**62:
            raise ValueError("timestamp and timestep: seconds and a whole number are needed")
        missing = [name for name in message.setup.state if name not in raw]
        if missing:
            raise ValueError(f"no number {missing[0]}, which the client's features name")
        seen = {**raw, STATE: [raw[name] for name in message.setup.state]}
        moment = Moment(timestamp, timestep, found.get("must_go") is True, message.setup.actions)
        return Act(read_observation(seen, served.keys, served.policy.interface), tag=moment)
    except ValueError as error:
        raise Refused(str(error)) from None


def answer(actions: np.ndarray, request: Act, served: Served, timing: Timing) -> bytes:
    """actions: (R, A)."""
    moment, rate = request.tag, served.policy.interface.rate or USUAL_RATE
    rows = [
        (moment.timestamp + number / rate, moment.timestep + number, action)
        for number, action in enumerate(actions[: moment.actions])
    ]
    return unpickling.timed_actions(rows)


def refusal(text: str, tag: Any) -> str:
    return text


def greeting(served: Served) -> None:
    return None

"""Whether a server's actions can be what the benchmark executes: told from its greeting and from its first answers.

What cannot be seen from outside (an inverted gripper, a picture upside down) is stated, for people to compare.
Axes: R actions of a chunk, A action numbers.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from pirl_core.envs.conventions import Conventions
from pirl_core.errors import UserError
from pirl_core.policy.interface import Interface
from pirl_core.readers.typed import Open, check
from pirl_core.serving.keys import Keys
from pirl_core.serving.line import Target

LONGEST = 1000
"""Actions of a chunk."""
FAR = 10
"""A number so many times farther from zero than its range is not meant as the benchmark means it."""


class _State(Open):
    names: list[str]


class About(Open):
    """What a server of this project's tells (``protocol.about``). noise: it heeds the client's seeds."""

    policy: str
    benchmark: str
    state: _State
    action: list[str]
    noise: Literal["seed"]


class Greeting(NamedTuple):
    """about: None of a server of somebody else's. action: what it declares of its actions, as vla-eval has it."""

    name: str
    about: About | None
    action: Mapping[str, Any]


def about_of(found: Mapping[Any, Any], target: Target) -> About | None:
    """None where it is not this project's. Raises UserError for one that is damaged."""
    if "noise" not in found or "benchmark" not in found:
        return None
    return check(About, dict(found), target.shown, "serve it with this version of pirl serve")


def stated(keys: Keys, conventions: Conventions | None) -> list[str]:
    """Lines for people: where each thing goes in a message, and what the benchmark means by its numbers."""
    places = [*keys.cameras.items(), ("state", keys.state[0]), ("prompt", keys.prompt)]
    lines = [f"  {name:<20} at {place}" for name, place in places]
    if conventions is None:
        return [
            *lines,
            "  the benchmark states no conventions: only the answers' shape and that they are finite is seen",
        ]
    for part in conventions.action:
        low, high = part.range
        lines.append(f"  {part.name:<20} {part.dims} × {part.format} in [{low:g}, {high:g}]: {part.meaning}")
    return [*lines, f"  {'state':<20} {conventions.state}", f"  {'images':<20} {conventions.images}"]


def require_agreement(
    greeting: Greeting, interface: Interface, conventions: Conventions | None, target: Target
) -> None:
    """Of what the server says of itself. Raises UserError where it serves a policy for something else."""
    about = greeting.about
    if about is not None:
        if about.benchmark and about.benchmark != interface.benchmark:
            raise UserError(
                f"{target.shown}: its policy is one for {about.benchmark!r:.60}, env.benchmark is "
                f"{interface.benchmark}; give another --experiment, or serve another policy"
            )
        if len(about.action) != len(interface.action) or (about.benchmark and about.action != interface.action):
            raise _otherwise("moves", about.action, interface.action, target)
        if len(about.state.names) != len(interface.state):
            raise _otherwise("reads", about.state.names, interface.state, target)
    for part in conventions.action if conventions else ():
        theirs = greeting.action.get(part.name)
        if not isinstance(theirs, dict) or theirs.get("format") == "raw":
            continue
        told = {"format": theirs.get("format"), "dims": theirs.get("dims")}
        for key, ours in (("format", part.format), ("dims", part.dims)):
            if told[key] != ours:
                raise UserError(
                    f"{target.shown}: declares {part.name} with {key} {told[key]!r:.40}, the benchmark has {ours!r} "
                    f"({part.meaning}); let the server convert its actions, or correct what it declares"
                )


def executable(found: object, interface: Interface, conventions: Conventions | None, target: Target) -> np.ndarray:
    """An answer as a chunk (R, A) float32; one action (A,) is a chunk of one. conventions: None leaves ranges alone.

    Raises UserError for anything that cannot be executed.
    """
    try:
        values = np.asarray(found)
    except ValueError:
        values = np.asarray(None)
    if values.dtype.kind not in "iuf":
        raise UserError(f"{target.shown}: actions that are no numbers ({found!r:.60})")
    chunk = values[None] if values.ndim == 1 else values
    names = interface.action
    if chunk.ndim != 2 or not 1 <= len(chunk) <= LONGEST or chunk.shape[1] != len(names):
        raise UserError(
            f"{target.shown}: actions of shape {values.shape}; (R, {len(names)}) is needed: {', '.join(names)}"
        )
    if not np.isfinite(chunk).all():
        row, number = np.argwhere(~np.isfinite(chunk))[0]
        raise UserError(
            f"{target.shown}: {names[number]} of action {row} is {chunk[row, number]}; see the server's log"
        )
    first = 0
    for part in conventions.action if conventions else ():
        ours = chunk[:, first : first + part.dims]
        size, most = np.abs(ours).max(), max(map(abs, part.range))
        if size > FAR * most:
            number = first + int(np.abs(ours).max(0).argmax())
            raise UserError(
                f"{target.shown}: {names[number]} reaches {size:g}, the benchmark has {part.name} in "
                f"[{part.range[0]:g}, {part.range[1]:g}] ({part.meaning}): other units; let the server convert"
            )
        first += part.dims
    return chunk.astype(np.float32)


def _otherwise(verb: str, theirs: list[str], ours: list[str], target: Target) -> UserError:
    return UserError(
        f"{target.shown}: its policy {verb} {len(theirs)} numbers ({', '.join(theirs)[:120]}), the experiment has "
        f"{len(ours)} ({', '.join(ours)[:120]}); give another --experiment, or serve another policy"
    )

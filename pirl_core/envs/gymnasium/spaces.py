"""What Gymnasium's spaces say: how many numbers state and action have, what they are called, how far they go.

Axes: S state numbers, A action numbers.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from math import prod
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.error import Error
from gymnasium.spaces import Box, Dict

from pirl_core.errors import UserError, first_line
from pirl_core.facts import OBJECT, STATE, SUCCESS, Keys
from pirl_core.params.sections.env import SENTENCE

NO_VIDEOS = "; set evaluate.videos_per_outcome and run.validation_videos to 0, and leave camera render out"

NO_KEYS = (SUCCESS, SENTENCE)
"""Of ``Keys`` those that name nothing of an observation."""


class Numbers(NamedTuple):
    """What of ``facts.Facts`` an environment's own spaces tell; fields as there."""

    state: tuple[str, ...]
    object_state: int
    action: tuple[str, ...]
    rate: float
    robot: str
    action_range: float | None


def make(task: str, limit: int | None, drawn: bool) -> Any:
    """The environment, cut after ``limit`` steps; None: where it cuts itself. drawn: whether ``render`` gives pictures.

    Raises UserError where it cannot be made, in its own words.
    """
    # One that is not drawn need not know of render modes.
    mode = {"render_mode": "rgb_array"} if drawn else {}
    try:
        env = gymnasium.make(task, max_episode_steps=limit, disable_env_checker=True, **mode)
    except (Error, ImportError, TypeError, ValueError) as error:
        raise UserError(f"env.tasks: {task}: {first_line(error, 300)}{NO_VIDEOS if drawn else ''}") from None
    if drawn and "rgb_array" not in env.metadata.get("render_modes", ()):
        raise UserError(f"env.tasks: {task} has no render mode rgb_array{NO_VIDEOS}")
    return env


def parts(space: Any, keys: Keys, task: str) -> tuple[list[str], list[str]]:
    """Keys of a Dict observation whose numbers are state, and those that object state adds; [""] is a plain vector.

    Without ``keys.state``, all vectors that are not named otherwise. Raises UserError for a key that is not there or
    is no vector, and where no number is left.
    """
    if isinstance(space, Box):
        wrong = [name for name in keys if name not in NO_KEYS]
        if wrong:
            raise UserError(
                f"env.keys.{wrong[0]}: the observation of {task} is no Dict, so it has no keys; leave it out"
            )
        if len(space.shape) > 1:
            raise UserError(f"env.tasks: the observation of {task} is {space}; give one of numbers, or of type Dict")
        return [""], []
    if not isinstance(space, Dict):
        raise UserError(f"env.tasks: the observation of {task} is {space}; Box and Dict are what a policy can read")
    named = {name: [key] if isinstance(key, str) else list(key) for name, key in keys.items() if name not in NO_KEYS}
    for name, wanted in named.items():
        for key in wanted:
            if key not in space.spaces:
                raise UserError(f"env.keys.{name}: {task} has no key '{key}'; it has {', '.join(space.spaces)}")
            if name in (STATE, OBJECT) and not _is_vector(space[key]):
                raise UserError(f"env.keys.{name}: '{key}' of {task} is {space[key]}, no vector of numbers")
            if name not in (STATE, OBJECT) and not _is_picture(space[key]):
                raise UserError(f"env.keys.{name}: '{key}' of {task} is {space[key]}, no picture (uint8, H x W x 3)")
    used = {key for wanted in named.values() for key in wanted}
    state = named.get(STATE) or [key for key, one in space.spaces.items() if _is_vector(one) and key not in used]
    if not state:
        raise UserError(f"env.keys: {task} tells no numbers beside its pictures; a policy needs one at least")
    return state, named.get(OBJECT, [])


def numbers_of(tasks: Sequence[str], keys: Keys) -> Numbers:
    """Of all the tasks. Raises UserError where they differ."""
    hashable = tuple((name, key if isinstance(key, str) else tuple(key)) for name, key in keys.items())
    first, *others = (_numbers(task, hashable) for task in tasks)
    for task, other in zip(tasks[1:], others, strict=True):
        if other._replace(robot=first.robot, rate=first.rate) != first:
            raise UserError(
                f"env.tasks: {task} has {other.object_state} state and {len(other.action)} action numbers, {tasks[0]} "
                f"{first.object_state} and {len(first.action)}, or other bounds; one policy needs one kind: "
                "make an experiment of each"
            )
    return first


@cache
def _numbers(task: str, keys: tuple[tuple[str, Any], ...]) -> Numbers:
    env = make(task, None, False)
    try:
        space, action = env.observation_space, env.action_space
        if not isinstance(action, Box) or len(action.shape) != 1:
            raise UserError(
                f"env.tasks: the action of {task} is {action}; a flow policy moves numbers, a Box of one axis"
            )
        state, objects = parts(space, dict(keys), task)
        low, high = action.low, action.high
        even = bool(np.isfinite(high).all() and (high == high[0]).all() and (low == -high).all())
        period = getattr(env.unwrapped, "dt", None)
        return Numbers(
            _names(space, state),
            len(_names(space, [*state, *objects])),
            tuple(f"action{number}" for number in range(action.shape[0])),
            float(env.metadata.get("render_fps") or (1 / period if period else 30)),
            env.spec.name.lower(),
            float(high[0]) if even else None,
        )
    finally:
        env.close()


def reader(space: Any, wanted: Sequence[str]) -> Callable[[Any], np.ndarray]:
    """(observation) → its numbers (S,) float32, those of the keys joined."""
    if isinstance(space, Box):
        return partial(np.asarray, dtype=np.float32)

    def joined(observation: Any) -> np.ndarray:
        return np.concatenate([np.asarray(observation[key], np.float32).reshape(-1) for key in wanted])

    return joined


def _names(space: Any, keys: Sequence[str]) -> tuple[str, ...]:
    """A name for each number: state0, state1, … of a vector; key0, key1, … of a Dict; the key alone of a single one."""
    found: list[str] = []
    for key in keys:
        count = prod((space[key] if key else space).shape)
        name = key or STATE
        found += [name] if count == 1 and key else [f"{name}{number}" for number in range(count)]
    return tuple(found)


def _is_vector(space: Any) -> bool:
    return isinstance(space, Box) and len(space.shape) <= 1


def _is_picture(space: Any) -> bool:
    return isinstance(space, Box) and len(space.shape) == 3 and space.shape[2] == 3 and space.dtype == np.uint8

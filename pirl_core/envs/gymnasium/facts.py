"""Any environment that Gymnasium has registered is a task; its numbers, names and bounds are those of its spaces.

An id is as ``gymnasium.make`` takes it: ``Hopper-v5``, or ``my_package:Reach-v0``, whose package is imported first and
registers it.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

from pirl_core.errors import UserError, first_line
from pirl_core.facts import Facts, Keys, Task
from pirl_core.params.sections.env import SENTENCE

LOCOMOTION = ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Ant-v5", "Humanoid-v5")
RENDER = "render"
"""The camera that every environment with render mode rgb_array has."""


class Registered(Mapping[str, Task]):
    """Has every registered id, and lists some: those that are known by name, or those that the user's sentence is for.
    sentence: None: each has its name for one."""

    def __init__(self, listed: Sequence[str] = LOCOMOTION, sentence: str | None = None) -> None:
        self.listed = listed
        self.sentence = sentence

    def __getitem__(self, name: str) -> Task:
        import gymnasium
        from gymnasium.error import Error

        package, _, rest = name.rpartition(":")
        if package:
            _load(package, name)
        try:
            spec = gymnasium.spec(rest)
        except (Error, ValueError):
            raise KeyError(name) from None
        return Task((self.sentence or spec.name,), "all", steps=spec.max_episode_steps)

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and bool(self[name])
        except KeyError:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(self.listed)

    def __len__(self) -> int:
        return len(self.listed)


def facts(tasks: Sequence[str], keys: Keys, frames: int) -> Facts:
    """Of environments whose spaces are alike, with the states of so many steps. Loads them."""
    from pirl_core.envs.gymnasium.spaces import numbers_of

    numbers = numbers_of(tuple(tasks), keys)
    # The present step first, under its own names.
    state = [name if age == 0 else f"{name}_{age}" for age in range(frames) for name in numbers.state]
    stacked = {"state": tuple(state), "object_state": frames * numbers.object_state}
    sentence = sentence_of(keys)
    known = Registered(tuple(tasks), sentence) if sentence else FACTS.tasks
    return FACTS._replace(tasks=known, **numbers._asdict() | stacked)


def sentence_of(keys: Keys) -> str | None:
    """What ``keys`` say that the policy is told; None where they do not."""
    found = keys.get(SENTENCE)
    return None if found is None else str(found)


FACTS = Facts(
    label="Gymnasium",
    tasks=Registered(),
    groups=("all",),
    cameras=(RENDER,),
    shifts=(),
    # The rest is told by ``of``.
    state=(),
    object_state=0,
    action=(),
    rate=0,
    robot="gymnasium",
    action_range=None,
    score="return",
    of=facts,
)


def _load(package: str, name: str) -> None:
    """So that it registers its environments."""
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(
            f"env.tasks: {name}: {first_line(error)}; install it, or put its folder on PYTHONPATH"
        ) from None

"""What is known of a benchmark before its simulator is loaded: tasks, sentences, cameras, numbers, shifts."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Literal, NamedTuple, Protocol

from pirl_core import named
from pirl_core.errors import UserError

Score = Literal["success", "return"]
"""What an episode counts for: whether it was solved, or the sum of its rewards where its task is never solved."""
Keys = Mapping[str, str | list[str]]
"""Names in an environment of somebody else's, as ``env.keys`` of params.yaml gives them."""
STATE, OBJECT, SUCCESS = "state", "object", "success"
"""What ``Keys`` may name beside the cameras."""


class Task(NamedTuple):
    """sentences: every instruction that may come with it, at least one. group: what reports average over.

    length: subtasks of an episode, solved one after another, each for a reward of 1. steps: the most that the published
    protocol gives to each of them; None: it says nothing of its own. recorded: what known datasets call it besides, and
    SFT is told as well. aliases: what they call it in place of its sentence, which SFT is told instead. parts: of the
    subtasks that an episode strings together, what each may be called; a demonstration shows one of them. shown_by: the
    tasks whose demonstrations by script are its own, where no script shows it whole.
    """

    sentences: tuple[str, ...]
    group: str
    length: int = 1
    steps: int | None = None
    recorded: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    parts: tuple[tuple[str, ...], ...] = ()
    shown_by: tuple[str, ...] = ()


def none_listed(task: str, shift: str) -> Sequence[Hashable]:
    """Every episode draws its own start."""
    return ()


class Facts(NamedTuple):
    """label: the benchmark's name in messages. groups: of the tasks, in the order of tables.

    shifts: ways to start an episode other than ``none``. state: names of the proprioceptive numbers. object_state: how
    many numbers the simulator's whole state has; it begins with the proprioceptive ones. action: names of the action
    numbers. rate: actions a second. robot: the arm, as datasets name it. action_range: the simulator clips every action
    number to ± this; None: numbers have units of their own, and no such bound. on_gpu: tasks that a GPU can simulate
    many episodes of at once. listed: of a task and a shift the starts that episodes play in turn, by their numbers and
    whatever they are for; empty where each draws its own from its seed. columns: of each known dataset those that it
    has in place of LeRobot's names for a camera, state and action; numbers of several follow one another; for task the
    one whose number tells tasks of one alias apart, as ``numbered`` says. sets: tasks that go by one name, in the order
    in which it stands for them. assets: whose it draws, by their name in ``envs/assets.py``; "" for none. score: what
    an episode counts for. of: the facts of some tasks, where numbers depend on these, on names that the user gives, and
    on how many steps' states are stacked.
    """

    label: str
    tasks: Mapping[str, Task]
    groups: tuple[str, ...]
    cameras: tuple[str, ...]
    shifts: tuple[str, ...]
    state: tuple[str, ...]
    object_state: int
    action: tuple[str, ...]
    rate: float
    robot: str
    action_range: float | None
    on_gpu: tuple[str, ...] = ()
    listed: Callable[[str, str], Sequence[Hashable]] = none_listed
    columns: tuple[Mapping[str, tuple[str, ...]], ...] = ()
    numbered: Mapping[int, str] = {}
    sets: Mapping[str, tuple[str, ...]] = {}
    assets: str = ""
    score: Score = "success"
    of: Callable[[Sequence[str], Keys, int], "Facts"] | None = None

    def task(self, name: str) -> Task:
        """Raises UserError, with close matches, when the benchmark has no task of that name."""
        if name in self.tasks:
            return self.tasks[name]
        raise UserError(f"env.tasks: {self.unknown_task(name)}")

    def unknown_task(self, name: str) -> str:
        """What is wrong with the name of a task or of a set of tasks, and what it could be."""
        close = [f"'{other}'" for other in get_close_matches(name, [*self.sets, *self.tasks], n=3, cutoff=0.5)]
        hint = f"did you mean {', '.join(close)}?" if close else f"such are {', '.join(list(self.tasks)[:8])}"
        sets = f"; sets of tasks: {', '.join(self.sets)}" if self.sets else ""
        return f"unknown {self.label} task '{name}'; {hint}{sets}"

    def expanded(self, names: Iterable[str]) -> list[str]:
        """Names of tasks, those of a set in its place; unknown names stay."""
        return [task for name in names for task in self.sets.get(name, (name,))]

    def check_shift(self, name: str) -> None:
        """Raises UserError when the benchmark starts no episode in that way."""
        if name not in ("none", *self.shifts):
            known = f"give none, {' or '.join(self.shifts)}" if self.shifts else f"{self.label} has none"
            raise UserError(f"shift '{name}' is unknown; {known}")

    def sentences(self) -> list[str]:
        """Of all tasks, each once."""
        return list(dict.fromkeys(text for task in self.tasks.values() for text in task.sentences))

    def state_dim(self, object_state: bool) -> int:
        """Numbers that a policy reads."""
        return self.object_state if object_state else len(self.state)


NOWHERE = Facts("no benchmark", {}, (), (), (), (), 0, (), 0, "", None)
"""Where no simulator is: what there is to know, a dataset tells."""


def facts_of(benchmark: str | None) -> Facts:
    """Of the benchmark of a short or a dotted name: ``FACTS`` of its module ``facts``; NOWHERE for None.

    Raises LookupError where there is no such benchmark.
    """
    if benchmark is None:
        return NOWHERE
    facts: Facts = named.part(named.BENCHMARKS, benchmark, "facts").FACTS
    return facts


class World(Protocol):
    """Where a policy acts, as section ``env`` says it, or a simulator's settings."""

    @property
    def benchmark(self) -> str | None: ...

    @property
    def tasks(self) -> Sequence[str]: ...

    @property
    def keys(self) -> Keys: ...

    @property
    def frame_stack(self) -> int: ...


def facts_in(world: World) -> Facts:
    """Of the benchmark with these tasks. May load the simulator, where it alone knows its numbers.

    Raises UserError where the tasks' numbers differ, or cannot be known.
    """
    facts = facts_of(world.benchmark)
    return facts if facts.of is None else facts.of(world.tasks, world.keys, world.frame_stack)

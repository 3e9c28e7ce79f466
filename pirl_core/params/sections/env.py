"""The section ``env``."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from pirl_core import named
from pirl_core.errors import UserError
from pirl_core.facts import OBJECT, STATE, SUCCESS, Score, facts_of
from pirl_core.params.errors import unknown
from pirl_core.params.sections.fields import Count, Section, Tasks, Text, Texts, distinct, unknown_part

SENTENCE = "sentence"
"""Of ``keys`` the one that is no key of the environment's, which has no words: what the policy is told."""


def known_benchmark(name: str) -> str:
    """A benchmark's name. Raises ValueError where there is none."""
    try:
        facts_of(name)
    except LookupError as error:
        raise ValueError(unknown_part(name, str(error), named.known(named.BENCHMARKS, "facts"))) from None
    return name


class Env(Section):
    """What the policy acts in and sees; without a benchmark it only learns from a dataset."""

    benchmark: Annotated[Text, AfterValidator(known_benchmark)] | None
    tasks: Tasks
    keys: dict[Text, Text | Annotated[Texts, Field(min_length=1)]]
    frame_stack: Annotated[int, Field(ge=1, le=100)]
    shift: Text
    episode_steps: Count
    cameras: Texts
    image_size: Annotated[int, Field(ge=32, le=512, multiple_of=16)]
    fast_render: bool
    object_state: bool
    sim_backend: Literal["cpu", "gpu"]

    @property
    def world(self) -> str:
        """The benchmark, for what acts in it. Raises UserError where there is none."""
        if self.benchmark is None:
            raise UserError(
                "env.benchmark = null: there is no simulator to act in; name one, or run make stage STAGE=sft alone"
            )
        return self.benchmark

    @property
    def score(self) -> Score:
        """What an episode counts for."""
        return "success" if SUCCESS in self.keys else facts_of(self.benchmark).score

    @model_validator(mode="after")
    def _sees_something(self) -> "Env":
        if self.benchmark is None and self.object_state:
            raise ValueError("object_state is a simulator's; set it to false, and join columns in curate.columns.state")
        if not self.cameras and not self.object_state and self.benchmark is not None:
            raise ValueError("the policy would be blind: give a camera or set object_state: true")
        return self

    @model_validator(mode="after")
    def _simulates(self) -> "Env":
        if self.benchmark is not None:
            check_backend(self.benchmark, self.sim_backend, self.tasks)
        return self

    @field_validator("episode_steps")
    @classmethod
    def _within_the_protocol(cls, value: int, info: ValidationInfo) -> int:
        """That the limit is one: simulators end what has had the protocol's steps."""
        if info.data.get("benchmark") is not None and "tasks" in info.data:
            known = facts_of(info.data["benchmark"]).tasks
            limits = [known[task].steps for task in info.data["tasks"]]
            longest = max(limit for limit in limits if limit) if all(limits) else value
            if value > longest:
                each = "each subtask" if any(known[task].length > 1 for task in known) else "an episode"
                raise ValueError(f"{value} exceeds the {longest} that the protocol gives {each}; give at most those")
        return value

    @field_validator("tasks")
    @classmethod
    def _without_sets(cls, value: list[str], info: ValidationInfo) -> list[str]:
        return tasks_of(info.data["benchmark"], value) if info.data.get("benchmark") is not None else value

    @field_validator("keys")
    @classmethod
    def _of_an_environment_that_has_such(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if value and "benchmark" in info.data and facts_of(info.data["benchmark"]).of is None:
            raise ValueError("are names in a Gymnasium environment; set {}, or benchmark: gymnasium")
        several = [name for name, key in value.items() if name not in (STATE, OBJECT) and not isinstance(key, str)]
        if several:
            raise ValueError(f"{several[0]} is one key, not several; only {STATE} and {OBJECT} are joined of many")
        return value

    @field_validator("frame_stack")
    @classmethod
    def _of_an_environment_whose_numbers_are_asked(cls, value: int, info: ValidationInfo) -> int:
        if value > 1 and "benchmark" in info.data and facts_of(info.data["benchmark"]).of is None:
            raise ValueError(
                f"{value}: states of a Gymnasium environment alone are stacked; set 1, or benchmark: gymnasium"
            )
        return value

    @field_validator("shift", "cameras")
    @classmethod
    def _known(cls, value: Any, info: ValidationInfo) -> Any:
        """That the benchmark has what is named."""
        if info.data.get("benchmark") is not None:
            check_names(info.data["benchmark"], str(info.field_name), value, tuple(info.data.get("keys", ())))
        elif info.field_name == "shift" and "benchmark" in info.data and value != "none":
            raise ValueError(f"'{value}': without a benchmark nothing is started; set none")
        return value


def tasks_of(benchmark: str, names: list[str]) -> list[str]:
    """What names of tasks and of sets of tasks stand for. Raises ValueError for an unknown one and for a task twice."""
    facts = facts_of(benchmark)
    tasks = facts.expanded(names)
    for task in tasks:
        if task not in facts.tasks:
            raise ValueError(facts.unknown_task(task))
    return distinct(tasks)


def check_names(benchmark: str, key: str, names: str | list[str], own: tuple[str, ...] = ()) -> None:
    """Raises ValueError where the benchmark lacks a camera or a shift, as ``key`` says. own: names of ``keys``."""
    facts = facts_of(benchmark)
    cameras = [*facts.cameras, *(name for name in own if name not in (STATE, OBJECT, SUCCESS, SENTENCE))]
    known = cameras if key == "cameras" else ["none", *facts.shifts]
    for name in [names] if isinstance(names, str) else names:
        if name not in known:
            raise ValueError(unknown(name, known, f"unknown {facts.label} {key.removesuffix('s')} '{name}'"))


def check_backend(benchmark: str, sim_backend: str, tasks: list[str]) -> None:
    """Raises ValueError where a task cannot be simulated there."""
    facts = facts_of(benchmark)
    for task in tasks:
        if sim_backend == "gpu" and task not in facts.on_gpu:
            raise ValueError(f"sim_backend: {facts.label} simulates '{task}' on the CPU alone; set it to cpu")

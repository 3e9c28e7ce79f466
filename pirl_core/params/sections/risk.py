"""The section ``risk``: tabular worlds, and ways to explore them."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from pirl_core.params.sections.fields import Count, Name, NonNegative, Section, Steps, distinct

MOST_HISTORIES = 100_000
MOST_EXPONENT = 300.0
"""Of e^(|γ| H), which the values lie within: a product of two such is still a float."""


def weighing(row: list[float]) -> list[float]:
    """Raises ValueError for weights that cannot be made probabilities."""
    if sum(row) <= 0:
        raise ValueError(f"weights {row} have no sum to divide by; give one above 0")
    return row


def bending(gamma: float) -> float:
    """Raises ValueError for a γ so near 0 that e^(γ R) is 1 but for rounding."""
    if abs(gamma) < 1e-6:
        raise ValueError(f"γ = {gamma:g} is risk-neutral, which is the limit of small γ; give at least 1e-6 or -1e-6")
    return gamma


Weights = Annotated[list[NonNegative], Field(min_length=1), AfterValidator(weighing)]
Matrix = Annotated[list[Weights], Field(min_length=1)]
Rewards = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)]
Gamma = Annotated[float, AfterValidator(bending)]


class World(Section):
    """A POMDP, the same at each step. Rows of weights are divided by their sums."""

    horizon: Annotated[int, Field(ge=1, le=64)]
    initial: Weights
    transition: Annotated[list[Matrix], Field(min_length=1)]
    emission: Matrix
    reward: Annotated[list[Rewards], Field(min_length=1)]
    paper: Name | None

    @model_validator(mode="after")
    def _sizes_agree(self) -> "World":
        states, actions, observations = len(self.initial), len(self.transition), len(self.emission[0])
        for action, rows in enumerate(self.transition):
            _require_shape(f"transition[{action}]", rows, states, states, "initial")
        _require_shape("emission", self.emission, states, observations, "emission[0]")
        _require_shape("reward", self.reward, states, actions, "transition")
        histories = (actions * observations) ** (self.horizon - 1)
        if histories > MOST_HISTORIES:
            raise ValueError(
                f"horizon {self.horizon}: a policy acts on ({actions} actions × {observations} observations)^"
                f"{self.horizon - 1} = {histories} histories, more than {MOST_HISTORIES}; lower it"
            )
        return self


class Bonus(Section):
    """How a learner explores."""

    bonus_scale: NonNegative
    bonus_in_q: bool

    @model_validator(mode="after")
    def _in_q_has_effect(self) -> "Bonus":
        if self.bonus_in_q and not self.bonus_scale:
            raise ValueError("bonus_in_q true adds nothing where bonus_scale is 0; set it to false")
        return self


class Risk(Section):
    """Exact planning and optimistic learning, told by their regret."""

    experiments: Annotated[dict[Name, World], Field(max_length=100)]
    methods: Annotated[dict[Name, Bonus], Field(max_length=100)]
    gammas: Annotated[list[Gamma], Field(min_length=1, max_length=100), AfterValidator(distinct)]
    episodes: Steps
    delta: Annotated[float, Field(gt=0, lt=1)]
    log_every: Count

    @model_validator(mode="after")
    def _can_be_computed(self) -> "Risk":
        for name, world in self.experiments.items():
            gamma = max(self.gammas, key=abs)
            if abs(gamma) * world.horizon > MOST_EXPONENT:
                raise ValueError(
                    f"gammas {gamma:g} × experiments.{name}.horizon {world.horizon}: e^(|γ| H) is beyond what floats"
                    f" hold with room to spare; keep |γ| H within {MOST_EXPONENT:g}"
                )
        if bool(self.experiments) != bool(self.methods):
            missing = "methods" if self.experiments else "experiments"
            raise ValueError(f"{missing} {{}} leaves nothing to run; name one, or set experiments and methods to {{}}")
        return self


def _require_shape(key: str, rows: Sequence[Sequence[float]], states: int, width: int, beside: str) -> None:
    """Raises ValueError unless there is a row a state, each of ``width`` numbers, which is the length of ``beside``."""
    if len(rows) != states:
        raise ValueError(f"{key} has {len(rows)} rows, initial has {states} states; give one a state")
    for state, row in enumerate(rows):
        if len(row) != width:
            raise ValueError(f"{key}[{state}] has {len(row)} numbers, {beside} has {width}; give as many")

"""Claims of a paper as data: ``claims.yaml`` beside this, read strictly."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from pirl_core.params.sections.fields import Name, Positive, Section, Text
from pirl_core.readers.strict_yaml import read_yaml
from pirl_core.readers.typed import check
from pirl_core.report.evidence import Query
from pirl_core.report.twins import SIBLINGS, TWINS, Twin, for_twin

CLAIMS = Path(__file__).parent / "claims.yaml"
"""Of π_RL."""
REMEDY = "docs/claims.md says what a claim may hold"
Split = Annotated[str, Field(pattern=r"^(id(:exploring(_before)?)?|ood:[a-z0-9_]+)$")]
Of = Literal["success", "reached_1", "reached_2", "reached_3", "reached_4", "reached_5", "gain"]
Reducer = Literal["first", "last", "mean", "largest", "reached", "dip", "jump"]
Names = Annotated[list[Name], Field(min_length=1)]


class Figure(Section):
    """A figure of episodes: `evidence.Query`, whose experiments and figure each twin may have of its own."""

    experiments: Names | dict[Twin, Names]
    method: Name
    splits: list[Split] = Field(["id"], min_length=1)
    group: Name | None = None
    of: Of | dict[Twin, Of] = "success"

    def query(self, twin: str) -> Query:
        experiments, of = for_twin(self.experiments, twin), for_twin(self.of, twin)
        return Query(tuple(experiments), self.method, tuple(self.splits), self.group, of)


class Metric(Section):
    """Metrics of a training run, added point by point, its curve reduced to one number a training seed (`reducers`).

    method ``sft``: the curves of SFT.
    """

    experiment: Name | dict[Twin, Name]
    method: Name
    metrics: Annotated[list[Text], Field(min_length=1)]
    reduce: Reducer


def _operand(value: Any) -> str:
    is_metric = isinstance(value, Metric) or (isinstance(value, dict) and "metrics" in value)
    return "metric" if is_metric else "figure"


Operand = Annotated[Annotated[Figure, Tag("figure")] | Annotated[Metric, Tag("metric")], Discriminator(_operand)]


class Pair(Section):
    """What is compared: a - b. only: by the runs of this twin; None: of every one."""

    only: Twin | None = None
    a: Operand
    b: Operand

    @model_validator(mode="after")
    def _comparable(self) -> "Pair":
        for side in (self.a, self.b):
            named = side.experiments if isinstance(side, Figure) else side.experiment
            by_twin = [named, side.of] if isinstance(side, Figure) else [named]
            if any(isinstance(value, dict) and len(value) < len(TWINS) for value in by_twin):
                raise ValueError("what is told by twin needs both, paper and paper_small")
        if isinstance(self.a, Metric) and isinstance(self.b, Metric):
            return self
        if not (isinstance(self.a, Figure) and isinstance(self.b, Figure)):
            raise ValueError("a and b must both be figures, or both be metrics")
        if (self.a.of, self.a.group) != (self.b.of, self.b.group):
            raise ValueError("a and b must be of the same figure and group")
        if self.a.of != "gain":
            unlike = [
                twin for twin in TWINS
                if len(for_twin(self.a.experiments, twin)) != len(for_twin(self.b.experiments, twin))
            ]  # fmt: skip
            if unlike or len(self.a.splits) != len(self.b.splits):
                raise ValueError("a and b are paired in order, so they need as many experiments and splits")
        return self


class Claim(Section):
    """A sentence, where the paper has it, and the comparisons that must all hold for it.

    kind: a - b is above zero (``more``), within ± margin (``equal``), above -margin (``not_less``). margin: a share in
    [0, 1], or in the metric's unit.
    """

    text: Text
    source: Text
    kind: Literal["more", "equal", "not_less"]
    margin: Positive | None = None
    pairs: Annotated[list[Pair], Field(min_length=1)]

    @model_validator(mode="after")
    def _margin_has_effect(self) -> "Claim":
        if (self.kind == "more") != (self.margin is None):
            raise ValueError("kind equal and not_less need a margin, more has none")
        return self


def claims_of(twin: str) -> Path:
    """The file of the paper that the twin reproduces."""
    return CLAIMS.with_name(f"claims_{twin}.yaml") if twin in SIBLINGS else CLAIMS


def read_claims(path: Path = CLAIMS) -> dict[str, Claim]:
    """By name, in the order of the file. Raises UserError for the first key that is wrong."""
    return {name: check(Claim, content, f"{path}: {name}", REMEDY) for name, content in read_yaml(path).items()}

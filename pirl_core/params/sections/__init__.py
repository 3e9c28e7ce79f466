"""Typed sections of ``params.yaml``.

A default lives in the file and nowhere else: every key is required, unknown keys are errors.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pirl_core.params.errors import unknown
from pirl_core.params.sections.curate import COLUMNS, Curate, Real
from pirl_core.params.sections.env import Env
from pirl_core.params.sections.evaluate import (
    EXPLORING,
    EXPLORING_BEFORE,
    Evaluate,
    Split,
    exploring_labels,
    split_label,
)
from pirl_core.params.sections.fields import (
    Fraction,
    Name,
    NonNegative,
    Positive,
    Precision,
    Record,
    Section,
    Seed,
    Text,
    Whole,
    distinct,
)
from pirl_core.params.sections.policy import Policy
from pirl_core.params.sections.risk import Bonus, Risk, World
from pirl_core.params.sections.rl import Rl, Sac
from pirl_core.params.sections.sft import Sft

__all__ = [
    "COLUMNS",
    "EXPLORING",
    "EXPLORING_BEFORE",
    "Bonus",
    "Curate",
    "Env",
    "Evaluate",
    "Experiment",
    "Params",
    "Policy",
    "Precision",
    "Real",
    "Record",
    "Report",
    "Risk",
    "Rl",
    "Sac",
    "Section",
    "Sft",
    "Split",
    "Supervision",
    "World",
    "exploring_labels",
    "split_label",
]


class Report(Section):
    """How the results are shown."""

    title: Text


class Supervision(Section):
    """How a run is looked after: checkpoints, trackers, guards. Nothing here changes a result."""

    checkpoint_minutes: NonNegative
    trackers: Annotated[list[Literal["wandb", "trackio"]], AfterValidator(distinct)]
    validation_videos: Whole
    warn_kl: Positive
    warn_first_ratio_error: Positive
    warn_success_drop: Fraction
    stop_kl: Positive | None
    stop_success_drop: Positive | None
    max_skipped_updates: Whole


class Experiment(Section):
    """One benchmark and one model; each section holds what it overrides, or ``{}``."""

    model: Text
    paper_model: Name | None
    env: dict[str, Any]
    curate: dict[str, Any]
    policy: dict[str, Any]
    sft: dict[str, Any]
    rl: dict[str, Any]
    evaluate: dict[str, Any]


class Params(Section):
    """The whole file."""

    scale: Name
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=1000), AfterValidator(distinct)]
    policies: Annotated[list[Name], AfterValidator(distinct)]
    methods: Annotated[dict[Name, dict[str, Any]], Field(max_length=100)]
    experiments: Annotated[dict[Name, Experiment], Field(max_length=100)]
    env: Env
    curate: Curate
    policy: Policy
    sft: Sft
    rl: Rl
    evaluate: Evaluate
    risk: Risk
    report: Report
    run: Supervision

    @model_validator(mode="after")
    def _names_agree(self) -> "Params":
        if "sft" in self.methods:
            raise ValueError("methods.sft: 'sft' names the policy before RL; call the method something else")
        strange = [name for name in self.policies if name != "sft" and name not in self.methods]
        if strange:
            raise ValueError(f"policies: {unknown(strange[0], ['sft', *self.methods])}")
        return self

    @model_validator(mode="after")
    def _one_kind_of_experiments(self) -> "Params":
        if self.experiments and self.risk.experiments:
            raise ValueError("experiments and risk.experiments: a scale has one report, of either; set the other to {}")
        if not self.experiments and not self.risk.experiments:
            raise ValueError("experiments and risk.experiments are both {}, so nothing would run; name one in either")
        if self.experiments and not self.policies:
            raise ValueError("policies: [] leaves nothing to evaluate; list sft, methods or both")
        return self

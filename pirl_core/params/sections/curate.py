"""The section ``curate``."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from pirl_core.params.sections.fields import Count, Section, Seed, Steps, StepsOrNone, Text, Texts, Whole, distinct

COLUMNS = ("state", "action", "environment", "sentence")
"""What ``columns`` may give the names of, beside the cameras."""


class Real(Section):
    """Demonstrations of a second domain, the "real" one: the script's again, under a shift of the benchmark."""

    shift: Text
    episodes_per_task: Count


class Curate(Section):
    """Demonstrations of the scripted experts or of others, and the few-shot subset that SFT sees."""

    dataset: Text | None
    dataset_revision: Text | None
    columns: dict[Text, Text | Annotated[Texts, Field(min_length=1)]]
    seed: Seed
    episodes_per_task: Count
    still_frames: Whole
    action_noise: Annotated[float, Field(ge=0, le=1)]
    max_attempts_per_episode: Count
    expert_return: Annotated[float, Field(ge=-1e9, le=1e9)] | None
    expert_steps: Steps
    keep_per_task: Count | None
    keep_episodes: Annotated[list[StepsOrNone], Field(min_length=1), AfterValidator(distinct)] | None
    real: Real | None

    @model_validator(mode="after")
    def _of_the_script_or_of_the_dataset(self) -> "Curate":
        if self.dataset is None and self.dataset_revision is not None:
            raise ValueError("dataset_revision is that of a dataset; set it to null, or give dataset")
        if self.dataset is None and self.columns:
            raise ValueError("columns are those of a dataset; set them to {}, or give dataset")
        if self.dataset is not None and self.still_frames:
            raise ValueError("still_frames follow the script's demonstrations; set it to 0, or dataset to null")
        return self

    @model_validator(mode="after")
    def _one_selector(self) -> "Curate":
        if self.keep_per_task is not None and self.keep_episodes is not None:
            raise ValueError("give keep_per_task or keep_episodes, not both; set the other to null")
        if self.keep_per_task is not None and self.keep_per_task > self.episodes_per_task:
            raise ValueError(f"keep_per_task {self.keep_per_task} exceeds episodes_per_task {self.episodes_per_task}")
        return self

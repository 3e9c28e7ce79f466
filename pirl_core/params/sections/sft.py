"""The section ``sft``."""

from typing import Annotated

from pydantic import Field

from pirl_core.params.sections.fields import (
    Count,
    Fraction,
    NonNegative,
    Positive,
    Precision,
    Section,
    Steps,
    StepsOrNone,
    Whole,
)


class Sft(Section):
    """Supervised flow matching on the demonstrations (Eq. 3)."""

    steps: StepsOrNone
    batch_size: Count
    sim_share: Fraction | None
    micro_batch_size: Count | None
    lr: Positive
    warmup_steps: StepsOrNone
    final_lr_fraction: Fraction
    weight_decay: NonNegative
    max_grad_norm: Positive
    tau_alpha: Positive
    tau_beta: Positive
    image_shift: Whole
    image_crop: Annotated[float, Field(ge=0, lt=1)]
    image_rotation: Annotated[float, Field(ge=0, le=180)]
    image_brightness: Fraction
    image_contrast: Fraction
    image_saturation: Fraction
    image_hue: Annotated[float, Field(ge=0, le=0.5)]
    precision: Precision
    activation_checkpointing: bool
    compile: bool
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    log_every: Steps

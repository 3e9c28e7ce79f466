"""The section ``policy``."""

from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator

from pirl_core import named
from pirl_core.params.sections.fields import Count, Section, Text, Whole, found
from pirl_core.params.sizes import Mode, Size


def known_family(name: str) -> str:
    """A model family's name. Raises ValueError where there is none."""
    return found(named.FAMILIES, name, "family")


class Policy(Section):
    """The flow policy: which family, how large, and how states and actions are put to it."""

    backbone: Annotated[Text, AfterValidator(known_family)]
    size: Size
    pretrained: Text | None
    revision: Text | None
    tokenizer: Text
    state_in_prompt: bool
    normalization: Mode
    normalization_from: Literal["data", "pretrained"]
    delta_actions: Whole
    squash: bool
    horizon: Count
    replan: Count
    denoise_steps: Count

    @model_validator(mode="after")
    def _consistent(self) -> "Policy":
        if self.replan > self.horizon:
            raise ValueError(f"replan {self.replan} exceeds horizon {self.horizon}")
        if (self.size == "full") != (self.tokenizer != "words"):
            raise ValueError("tokenizer: size full needs its own, a hub id or a folder; any other size takes 'words'")
        if self.pretrained is not None and self.size != "full":
            raise ValueError("pretrained weights are of size full; set size: full or pretrained: null")
        if self.revision is not None and self.pretrained is None:
            raise ValueError("revision is that of pretrained weights; set it to null, or give pretrained")
        if self.normalization_from == "pretrained" and self.pretrained is None:
            raise ValueError("normalization_from: pretrained needs pretrained weights; give them or say data")
        if self.squash and (self.delta_actions or self.normalization != "min_max"):
            raise ValueError("squash keeps actions within bounds: it needs normalization: min_max, delta_actions: 0")
        if self.state_in_prompt and self.backbone != "pi05":
            raise ValueError("state_in_prompt is pi05's way to see the state; the others see it without")
        return self

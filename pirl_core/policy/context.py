"""What a backbone's ``encode`` takes and gives.

Axes: B batch, C cameras, P prefix tokens, L text tokens, S state numbers, W widths.
"""

from typing import NamedTuple

from torch import Tensor


class DataSizes(NamedTuple):
    """The sizes of a backbone that come from its data, not from its architecture. image_size: in pixels, as the
    network takes them. text_length: most tokens of a prompt. state_dim, action_dim: with padding."""

    image_size: int
    cameras: int
    vocabulary: int
    text_length: int
    state_dim: int
    action_dim: int
    horizon: int


class Inputs(NamedTuple):
    """An observation as the network takes it.

    images: (B, C, 3, s, s) in [−1, 1], of the cameras that exist. tokens: (B, L) ids; tokens_valid: (B, L) bool.
    state: (B, S) normalised and padded.
    """

    images: Tensor
    tokens: Tensor
    tokens_valid: Tensor
    state: Tensor


class Context(NamedTuple):
    """All that the expert needs to know of an observation, computed once and reused by every denoising step.

    memory: (B, …) what the expert attends to, in its backbone's own layout. valid: (B, P) bool. pooled: (B, W) mean of
    the VLM's valid output tokens (where π0's official critic is asked for, of padding too). state: (B, S) normalised.
    """

    memory: Tensor
    valid: Tensor
    pooled: Tensor
    state: Tensor

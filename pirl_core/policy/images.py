"""Camera frames as the vision tower takes them.

Axes: B batch, C cameras, H W pixels of a frame, s side of the network's image.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Resize = Literal["openpi", "lerobot"]
"""How a frame of another size is fitted, its aspect kept. openpi: bilinear with antialiasing as in Pillow, centred on
black. lerobot (SmolVLA): bilinear without, in the lower right corner of a black image."""


def network_images(frames: Tensor, size: int, resize: Resize) -> Tensor:
    """uint8 frames (B, C, H, W, 3) → (B, C, 3, s, s) in [−1, 1]."""
    images = frames.permute(0, 1, 4, 2, 3).float()
    if images.shape[1] and images.shape[-2:] != (size, size):
        images = _fit(images.flatten(0, 1), size, resize).unflatten(0, images.shape[:2])
    return images / 127.5 - 1


def _fit(images: Tensor, size: int, resize: Resize) -> Tensor:
    """(N, 3, H, W) → (N, 3, s, s) in [0, 255]."""
    ratio = max(images.shape[-2:]) / size
    height, width = (max(1, int(side / ratio)) for side in images.shape[-2:])
    down, right = size - height, size - width
    if resize == "lerobot":
        resized = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
        return F.pad(resized, (right, 0, down, 0))
    resized = F.interpolate(images, (height, width), mode="bilinear", antialias=True).round().clamp(0, 255)
    return F.pad(resized, (right // 2, right - right // 2, down // 2, down - down // 2))

"""Camera frames as the vision tower takes them.

Axes: B batch, C cameras, H W pixels of a frame, s side of the network's image.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Resize = Literal["openpi", "lerobot", "isaac"]
"""How a frame is fitted. openpi and lerobot keep the aspect of one of another size: bilinear with antialiasing as in
Pillow, centred on black; or bilinear without (SmolVLA), in the lower right corner of a black image. isaac (GR00T N1.5):
the middle 95 % of every frame, stretched by bilinear with antialiasing, as Isaac-GR00T's data configurations evaluate;
Eagle's own processor then finds the one tile that it wants."""
CROP = 0.95


def network_images(frames: Tensor, size: int, resize: Resize) -> Tensor:
    """uint8 frames (B, C, H, W, 3) → (B, C, 3, s, s) in [−1, 1]."""
    images = frames.permute(0, 1, 4, 2, 3).float()
    if images.shape[1] and (images.shape[-2:] != (size, size) or resize == "isaac"):
        images = _fit(images.flatten(0, 1), size, resize).unflatten(0, images.shape[:2])
    return images / 127.5 - 1


def _fit(images: Tensor, size: int, resize: Resize) -> Tensor:
    """(N, 3, H, W) → (N, 3, s, s) in [0, 255]."""
    if resize == "isaac":
        height, width = (int(side * CROP) for side in images.shape[-2:])
        top, left = (round((full - kept) / 2) for full, kept in zip(images.shape[-2:], (height, width), strict=True))
        middle = images[..., top : top + height, left : left + width] / 255
        # In fractions, and cut to whole numbers: so it is stored there.
        return (F.interpolate(middle, (size, size), mode="bilinear", antialias=True) * 255).floor().clamp(0, 255)
    ratio = max(images.shape[-2:]) / size
    height, width = (max(1, int(side / ratio)) for side in images.shape[-2:])
    down, right = size - height, size - width
    if resize == "lerobot":
        resized = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
        return F.pad(resized, (right, 0, down, 0))
    resized = F.interpolate(images, (height, width), mode="bilinear", antialias=True).round().clamp(0, 255)
    return F.pad(resized, (right // 2, right - right // 2, down // 2, down - down // 2))

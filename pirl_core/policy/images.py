"""Camera frames as the vision tower takes them.

Axes: B batch, C cameras, H W pixels of a frame, s side of the network's image.
"""

import torch.nn.functional as F
from torch import Tensor


def network_images(frames: Tensor, size: int) -> Tensor:
    """uint8 frames (B, C, H, W, 3) → (B, C, 3, s, s) in [−1, 1].

    Frames of another size are resized with their aspect kept (bilinear with antialiasing, as Pillow does it) and
    centred on black, as openpi's policies saw them.
    """
    images = frames.permute(0, 1, 4, 2, 3).float()
    if images.shape[1] and images.shape[-2:] != (size, size):
        images = _fit(images.flatten(0, 1), size).unflatten(0, images.shape[:2])
    return images / 127.5 - 1


def _fit(images: Tensor, size: int) -> Tensor:
    """(N, 3, H, W) → (N, 3, s, s), whole numbers from 0 to 255."""
    ratio = max(images.shape[-2:]) / size
    height, width = (max(1, int(side / ratio)) for side in images.shape[-2:])
    resized = F.interpolate(images, (height, width), mode="bilinear", antialias=True).round().clamp(0, 255)
    top, left = (size - height) // 2, (size - width) // 2
    return F.pad(resized, (left, size - width - left, top, size - height - top))

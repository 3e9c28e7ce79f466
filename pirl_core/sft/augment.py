"""Augmentation of the images that SFT sees: shift, crop and rotation, colours. Pure functions of images and draws.

Axes: B batch, C cameras, s pixels of a side.

One draw a sample, for all its cameras: they show one moment, in one light. A draw is made for the whole batch before
it is shared out, so what a sample gets depends neither on ranks nor on micro-batches. A wrist camera is neither cropped
nor rotated, as in openpi.

Strengths of the published recipes: openpi crop 0.05, rotation 5, brightness 0.3, contrast 0.4, saturation 0.5; GR00T
N1.5 the same without rotation and with hue 0.08 (it crops wrist cameras too, and at inference the centre). Details
differ from both: openpi's JAX code leaves the colours of every other picture and, by a slip of its library, the
saturation of all; its PyTorch code draws once a batch and takes the channels' mean for grey; both fill the corners of a
rotated picture with black. Here each sample has its draw, grey is Rec. 601's as in torchvision, the border is repeated.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pirl_core.params.sections import Sft

WRIST_CAMERAS = ("gripperPOV", "eye_in_hand", "gripper")
"""MetaWorld's, LIBERO's, CALVIN's."""
GREY = (0.299, 0.587, 0.114)


class Draw(NamedTuple):
    """What a batch gets, a row a sample.

    shift: (B, 2) pixels down and right. center: (B, 2), x and y of the crop's centre where the picture is [−1, 1]².
    angle: (B,) radians, anticlockwise. colour: (B, 4), factors of brightness, contrast and saturation (1 leaves them),
    and the turn of the hue (0 leaves it, 1 is full circle).
    """

    shift: np.ndarray
    center: np.ndarray
    angle: np.ndarray
    colour: np.ndarray

    def of(self, samples: np.ndarray) -> "Draw":
        return Draw(*(part[samples] for part in self))


def draw_shift(rng: np.random.Generator, count: int, sft: Sft) -> np.ndarray:
    """(B, 2) whole pixels, each uniform over −image_shift … image_shift."""
    return rng.integers(-sft.image_shift, sft.image_shift + 1, (count, 2))


def draw(rng: np.random.Generator, shift: np.ndarray, sft: Sft) -> Draw:
    """All uniform around what leaves the picture as it is."""
    count = len(shift)
    center = rng.uniform(-1, 1, (count, 2)) * sft.image_crop
    angle = rng.uniform(-1, 1, count) * math.radians(sft.image_rotation)
    strength = [sft.image_brightness, sft.image_contrast, sft.image_saturation, sft.image_hue]
    return Draw(shift, center, angle, rng.uniform(-1, 1, (count, 4)) * strength + [1, 1, 1, 0])


def augment(images: np.ndarray, cameras: Sequence[str], change: Draw, sft: Sft) -> np.ndarray:
    """images: (B, C, s, s, 3) uint8, C as ``cameras`` names them. The same array, where nothing is asked for."""
    if not cameras:
        return images
    images = shift_images(images, change.shift)
    warps = bool(sft.image_crop or sft.image_rotation)
    colours = bool(sft.image_brightness or sft.image_contrast or sft.image_saturation or sft.image_hue)
    if not (warps or colours):
        return images
    x = torch.from_numpy(images).permute(0, 1, 4, 2, 3).contiguous() / 255
    still = [index for index, name in enumerate(cameras) if name not in WRIST_CAMERAS]
    if warps and still:
        x[:, still] = warp(x[:, still], 1 - sft.image_crop, change.center, change.angle)
    if colours:
        x = jitter(x, change.colour)
    changed: np.ndarray = (x * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
    return changed


def shift_images(images: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Move each sample's images (B, C, s, s, 3) by offsets (B, 2) pixels, repeating the border."""
    reach = int(np.abs(offsets).max(initial=0))
    if reach == 0:
        return images
    size = images.shape[2]
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    rows = np.arange(size) + reach + offsets[:, :1]
    columns = np.arange(size) + reach + offsets[:, 1:]
    sample = np.arange(len(images))
    # Advanced indices around the camera slice put that axis last but one: (B, s, s, C, 3).
    moved = padded[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return np.moveaxis(moved, 3, 1)


def warp(x: Tensor, kept: float, center: np.ndarray, angle: np.ndarray) -> Tensor:
    """Crop to the share ``kept`` of each side around center (B, 2), resize back, rotate by angle (B,), in one
    bilinear step: the corners that a rotation bares show what lies beside the crop. x: (B, C, 3, s, s)."""
    cos, sin = kept * np.cos(angle), kept * np.sin(angle)
    # From a place of the new picture to its place in the old one; y points down, so this turns anticlockwise.
    theta = np.stack([np.stack([cos, -sin, center[:, 0]], 1), np.stack([sin, cos, center[:, 1]], 1)], 1)
    planes = x.flatten(1, 2)
    grid = F.affine_grid(torch.from_numpy(theta).to(x), list(planes.shape), align_corners=False)
    return F.grid_sample(planes, grid, "bilinear", "border", align_corners=False).view_as(x)


def jitter(x: Tensor, colour: np.ndarray) -> Tensor:
    """Brightness, contrast, saturation, hue, in this order, as Pillow and torchvision define them; each result is cut
    to [0, 1]. x: (B, C, 3, s, s) in [0, 1]; colour: (B, 4) as in ``Draw``."""
    brightness, contrast, saturation, hue = torch.from_numpy(colour).to(x).T[:, :, None, None, None, None]
    x = (x * brightness).clamp(0, 1)
    mean = grey(x).mean((-3, -2, -1), keepdim=True)
    x = torch.lerp(mean, x, contrast).clamp(0, 1)
    x = torch.lerp(grey(x), x, saturation).clamp(0, 1)
    return turn_hue(x, hue) if bool(hue.any()) else x


def grey(x: Tensor) -> Tensor:
    """Luma of RGB: (…, 3, s, s) → (…, 1, s, s)."""
    return (x * x.new_tensor(GREY)[:, None, None]).sum(-3, keepdim=True)


def turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """The hue of HSV turned by so many circles. x: (…, 3, s, s) in [0, 1]."""
    value, first = x.max(-3, keepdim=True)
    chroma = value - x.amin(-3, keepdim=True)
    second, third = (x.gather(-3, (first + step) % 3) for step in (1, 2))
    sixths = 2 * first + (second - third) / chroma.clamp(min=1e-12) + 6 * turn
    # How far each channel lies below the largest, as a function of the angle to its own hue.
    angle = (x.new_tensor([5, 3, 1])[:, None, None] + sixths) % 6
    return value - chroma * torch.minimum(angle, 4 - angle).clamp(0, 1)

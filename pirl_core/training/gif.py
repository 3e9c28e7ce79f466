"""Films of episodes as small animated GIFs, for the report and for TensorBoard. Loads no torch."""

import io

import numpy as np
from PIL import Image

COLOURS = 64


def quantized(frames: np.ndarray) -> list[Image.Image]:
    """Frames (F, H, W, 3) uint8 with one palette for all. The octree keeps colours of which there is little: a median
    cut, which shares colours out by area, shows a red block blue, and each frame otherwise."""
    palette = Image.fromarray(np.concatenate(frames)).quantize(COLOURS, method=Image.Quantize.FASTOCTREE)
    return [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def encoded(frames: np.ndarray, fps: int) -> bytes:
    """The content of a GIF file that shows frames (F, H, W, 3) uint8 again and again."""
    images = quantized(frames)
    file = io.BytesIO()
    # A GIF counts in hundredths of a second, and browsers slow down what is shorter than two of them.
    duration = 10 * max(2, round(100 / fps))
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)
    return file.getvalue()

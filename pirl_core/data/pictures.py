"""Pictures as datasets store them, images, bare pixels or frames of a video, in the size that the policy sees.

Axes: H W pixels, C channels: one of grey, three of colour, or these and an alpha, which is dropped.
"""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av import VideoFrame
from PIL import Image

from pirl_core.readers.pictures import MOST_PIXELS, decode_picture

CHANNELS = (1, 3, 4)


def decode_image(encoded: bytes, size: int) -> np.ndarray:
    """An image file's content → (size, size, 3) uint8. Raises ValueError for anything else."""
    picture = decode_picture(encoded)
    if picture.mode[0] in "IF":
        raise ValueError(f"its pixels are {picture.mode}, 8 bits a channel are needed")
    return _resized(picture, size)


def picture_of(pixels: np.ndarray, size: int) -> np.ndarray:
    """Pixels (H, W), (H, W, C) or (C, H, W) → (size, size, 3) uint8.

    Whole numbers lie in [0, 255]. Floats lie in [0, 1] and become bytes as LeRobot makes them (``image_writer``): times
    255, in their own precision, fractions dropped. Raises ValueError for other shapes and values.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif pixels.ndim == 3 and pixels.shape[2] not in CHANNELS:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] not in CHANNELS or not pixels.size or pixels.dtype.kind not in "iuf":
        raise ValueError(f"{pixels.dtype} of shape {pixels.shape} is no picture")
    whole = pixels.dtype.kind != "f"
    low, high, most = pixels.min(), pixels.max(), 255 if whole else 1
    if not (low >= 0 and high <= most):
        raise ValueError(f"pixels go from {low:g} to {high:g}; floats lie in [0, 1], whole numbers in [0, 255]")
    picture = (pixels if whole else pixels * 255).astype(np.uint8)
    return _resized(Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture), size)


def decode_video(path: Path, size: int) -> list[np.ndarray]:
    """All frames of a video file in the order of showing, each (size, size, 3) uint8.

    Raises OSError or ValueError for a file that is missing or damaged; a file that ends early may just have fewer
    frames.
    """
    return [_resized(frame.to_image(), size) for _, frame in _decoded(path, 0.0)]


def decode_span(path: Path, size: int, start: float, count: int, rate: float) -> list[np.ndarray]:
    """The ``count`` frames that a video shows from ``start`` s on, ``rate`` a second; raises as ``decode_video``, and
    where one is not there at its time, or others lie between them."""
    frames: list[np.ndarray] = []
    for time, frame in _decoded(path, start):
        place = (time - start) * rate
        if place < -0.5:
            continue  # the seek lands on the key frame before
        if place > count - 0.5:
            break
        if abs(place - len(frames)) > 0.25:
            due = start + len(frames) / rate
            raise ValueError(f"at {time:g} s it shows a frame, at {rate:g} a second one belongs at {due:g} s")
        frames.append(_resized(frame.to_image(), size))
    if len(frames) < count:
        raise ValueError(f"it ends at {start + len(frames) / rate:g} s, {count - len(frames)} frames early")
    return frames


def _decoded(path: Path, start: float) -> Iterator[tuple[float, VideoFrame]]:
    """Frames from the last key frame at or before ``start`` on, with their times since the first, in s."""
    try:
        # Of this one format: others are lists of further files and addresses to read.
        with av.open(str(path), format="mp4") as container:
            if not container.streams.video:
                raise ValueError("no video in it")
            stream = container.streams.video[0]
            unit, first = float(stream.time_base or 1), stream.start_time or 0
            if start:
                container.seek(round(start / unit) + first, stream=stream)
            for number, frame in enumerate(container.decode(stream)):
                if frame.width * frame.height > MOST_PIXELS:
                    raise ValueError(f"frames of {frame.width} x {frame.height} pixels")
                if frame.is_corrupt:
                    raise ValueError(f"frame {number}{' after the seek' if start else ''} is damaged")
                yield ((frame.pts or 0) - first) * unit, frame
    except av.FFmpegError as error:
        raise ValueError(error.strerror) from None


def _resized(picture: Image.Image, size: int) -> np.ndarray:
    picture = picture.convert("RGB")
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8)

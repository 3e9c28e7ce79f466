"""Pictures as datasets store them, images or frames of a video, in the size that the policy sees."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def decode_image(encoded: bytes, size: int) -> np.ndarray:
    """An image file's content → (size, size, 3) uint8. Raises as Pillow does: OSError, ValueError, SyntaxError."""
    return _resized(Image.open(io.BytesIO(encoded)), size)


def decode_video(path: Path, size: int) -> list[np.ndarray]:
    """All frames of a video file in the order of showing, each (size, size, 3) uint8.

    Needs PyAV, whose absence is an ImportError. Raises OSError or ValueError for a file that is missing or damaged; a
    file that ends early may just have fewer frames.
    """
    import av

    frames: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("no video in it")
            for frame in container.decode(video=0):
                if frame.is_corrupt:
                    raise ValueError(f"frame {len(frames)} is damaged")
                frames.append(_resized(frame.to_image(), size))
    except av.FFmpegError as error:
        raise ValueError(error.strerror) from None
    return frames


def _resized(picture: Image.Image, size: int) -> np.ndarray:
    picture = picture.convert("RGB")
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8)

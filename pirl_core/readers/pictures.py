"""PNG, JPEG and WebP."""

import io
import warnings

from PIL import Image, UnidentifiedImageError

from pirl_core.errors import first_line

FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 4096 * 4096

# Our own limit is lower. Once and for all, since pictures are decoded in several threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def picture_size(encoded: bytes) -> tuple[int, int]:
    """Width and height of an image file's content, from its header. Raises ValueError as ``decode_picture``."""
    return _opened(encoded).size


def decode_picture(encoded: bytes) -> Image.Image:
    """An image file's content, decoded. Raises ValueError in one line for anything else, and for too many pixels."""
    picture = _opened(encoded)
    try:
        picture.load()
    except Exception as error:  # Pillow's decoders raise whatever a damaged file provokes
        raise ValueError(f"no readable picture: {first_line(error)}") from None
    return picture


def _opened(encoded: bytes) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(encoded), formats=FORMATS)
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError(f"{picture.width} x {picture.height} pixels, of {MOST_PIXELS:,} at most")
    except UnidentifiedImageError:
        raise ValueError(f"no readable picture: none of {', '.join(FORMATS)}") from None
    except Exception as error:  # as above
        raise ValueError(f"no readable picture: {first_line(error)}") from None
    return picture

"""PNG, JPEG and WebP."""

import io
import warnings

from PIL import Image, UnidentifiedImageError

from pirl_core.errors import first_line

FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 4096 * 4096


def decode_picture(encoded: bytes) -> Image.Image:
    """An image file's content, decoded. Raises ValueError in one line for anything else, and for too many pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            picture = Image.open(io.BytesIO(encoded), formats=FORMATS)
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError(f"{picture.width} x {picture.height} pixels, of {MOST_PIXELS:,} at most")
        picture.load()
    except UnidentifiedImageError:
        raise ValueError(f"no readable picture: none of {', '.join(FORMATS)}") from None
    except Exception as error:  # Pillow's decoders raise whatever a damaged file provokes
        raise ValueError(f"no readable picture: {first_line(error)}") from None
    return picture

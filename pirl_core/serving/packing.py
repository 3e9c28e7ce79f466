"""msgpack with numpy arrays in it, as the field's protocols write them; what comes off the wire is checked first.

openpi's keys are bytes (``b"__ndarray__"``), vla-eval's are text, and its images may be PNG or JPEG files. Neither
form can name anything but numbers: objects, and so pickles, have no way in.
"""

import io
import math
import re
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np

from pirl_core.errors import first_line
from pirl_core.readers.pictures import decode_picture

DTYPE = re.compile(r"[<>|=]?([biuf])([1248])")
MOST_AXES = 8


def unpack(message: bytes, hook: Callable[[dict[Any, Any]], Any]) -> Any:
    """Raises ValueError in one line for what is no msgpack, or holds what ``hook`` refuses."""
    try:
        return msgpack.unpackb(message, object_hook=hook, raw=False)
    except Exception as error:  # besides its own errors the library raises Python's, whatever the bytes provoke
        raise ValueError(f"message of {len(message)} bytes: {first_line(error)}") from None


def pack(content: Any, default: Callable[[Any], Any]) -> bytes:
    packed: bytes = msgpack.packb(content, default=default, use_bin_type=True)
    return packed


def bytes_keys(found: dict[Any, Any]) -> Any:
    """openpi's arrays and numpy scalars; any other map stays."""
    if b"__ndarray__" in found:
        return array(found.get(b"data"), found.get(b"dtype"), found.get(b"shape"))
    if b"__npgeneric__" in found:
        return dtype_of(found.get(b"dtype")).type(found.get(b"data"))
    return found


def with_bytes_keys(value: np.ndarray) -> dict[bytes, Any]:
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


def text_keys(found: dict[Any, Any]) -> Any:
    """vla-eval's arrays and images; any other map stays."""
    if "__image__" in found and found.get("format") in ("png", "jpeg"):
        encoded = found.get("data")
        if not isinstance(encoded, bytes):
            raise ValueError("an image without data")
        return np.asarray(decode_picture(encoded))
    if "__image__" in found or "__ndarray__" in found:
        return array(found.get("data"), found.get("dtype"), found.get("shape"))
    return found


def with_text_keys(value: np.ndarray) -> dict[str, Any]:
    return {"__ndarray__": True, "data": value.tobytes(), "dtype": value.dtype.str, "shape": value.shape}


def npy_maps(found: dict[Any, Any]) -> Any:
    """GR00T's arrays, each a whole .npy file; any other map stays."""
    if "__ndarray_class__" not in found:
        return found
    stored = found.get("as_npy")
    if not isinstance(stored, bytes):
        raise ValueError("an array without data")
    read, file = np.lib.format, io.BytesIO(stored)
    header = {(1, 0): read.read_array_header_1_0, (2, 0): read.read_array_header_2_0}.get(read.read_magic(file))
    if header is None:
        raise ValueError("an array in an unknown version of .npy")
    shape, fortran, dtype = header(file)
    values = array(stored[file.tell() :], dtype.str, list(shape)[:: -1 if fortran else 1])
    return values.T if fortran else values


def with_npy(value: np.ndarray) -> dict[str, Any]:
    stored = io.BytesIO()
    np.save(stored, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": stored.getvalue()}


def dtype_of(name: object) -> np.dtype[Any]:
    """Raises ValueError but for plain numbers and truth values of at most 8 bytes."""
    if not isinstance(name, str) or not DTYPE.fullmatch(name):
        raise ValueError(f"dtype {name!r:.40}: only plain numbers are taken")
    try:
        return np.dtype(name)
    except TypeError:
        raise ValueError(f"dtype {name!r:.40} is not known") from None


def array(data: object, dtype: object, shape: object) -> np.ndarray:
    """A view of the message's bytes, which cannot be written to. Raises ValueError where they do not fit together."""
    kind = dtype_of(dtype)
    sides: Any = shape if isinstance(shape, list | tuple) else [None]
    if len(sides) > MOST_AXES or not all(type(side) is int and side >= 0 for side in sides):
        raise ValueError(f"shape {shape!r:.40}: a list of at most {MOST_AXES} whole numbers is needed")
    if not isinstance(data, bytes) or len(data) != math.prod(sides) * kind.itemsize:
        held = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise ValueError(f"an array of {dtype} and shape {shape!r:.40} does not fit {held}")
    return np.frombuffer(data, kind).reshape(sides)

"""Arrays on the wire: what the real clients write is read and the reverse, and nothing else is."""

import io
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from pirl_core.serving import packing

ANY = arrays.arrays(
    st.sampled_from(["|b1", "|i1", "|u1", "<i2", ">i4", "<i8", "<u8", "<f2", "<f4", ">f8"]),
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


def same(one: Any, other: np.ndarray) -> None:
    assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@settings(max_examples=60, deadline=None)
@given(ANY)
def test_openpi_s_client_and_we_read_each_other(array: np.ndarray) -> None:
    theirs = pytest.importorskip("openpi_client.msgpack_numpy", reason="openpi-client is not installed")
    same(packing.unpack(theirs.packb({"x": array}), packing.bytes_keys)["x"], array)
    same(theirs.unpackb(packing.pack({"x": array}, packing.with_bytes_keys))["x"], array)
    if array.size:
        np.testing.assert_array_equal(packing.unpack(theirs.packb(array.flat[0]), packing.bytes_keys), array.flat[0])


@settings(max_examples=60, deadline=None)
@given(ANY)
def test_vla_eval_s_client_and_we_read_each_other(array: np.ndarray) -> None:
    theirs = pytest.importorskip("vla_eval.protocol.numpy_codec", reason="vla-eval is not installed")
    # Else it takes what has the shape of an image for one, which the next test is about.
    theirs.set_image_format("raw")
    same(packing.unpack(msgpack.packb({"x": array}, default=theirs.encode_ndarray), packing.text_keys)["x"], array)
    packed = packing.pack({"x": array}, packing.with_text_keys)
    same(msgpack.unpackb(packed, object_hook=theirs.decode_ndarray)["x"], array)


def test_images_come_as_files_too() -> None:
    codec = pytest.importorskip("vla_eval.protocol.image_codec", reason="vla-eval is not installed")
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    for form in ("raw", "png"):
        same(packing.unpack(msgpack.packb(codec.encode_image(image, form)), packing.text_keys), image)
    smooth = np.full((24, 32, 3), 130, np.uint8)
    found = packing.unpack(msgpack.packb(codec.encode_image(smooth, "jpeg")), packing.text_keys)
    assert found.shape == smooth.shape and np.abs(found.astype(int) - smooth).max() <= 2


def bomb() -> bytes:
    stored = io.BytesIO()
    Image.new("1", (8192, 8192)).save(stored, "PNG")
    return stored.getvalue()


GOOD = {"__ndarray__": True, "data": bytes(8), "dtype": "<f4", "shape": [2]}
BAD: dict[str, Any] = {
    "dtype '|O': only plain numbers": GOOD | {"dtype": "|O"},
    "dtype 'f4,f4': only plain numbers": GOOD | {"dtype": "f4,f4"},
    "dtype '<c8': only plain numbers": GOOD | {"dtype": "<c8"},
    "dtype '<f1' is not known": GOOD | {"dtype": "<f1"},
    "dtype b'<f4': only plain numbers": GOOD | {"dtype": b"<f4"},
    "does not fit 8 bytes": GOOD | {"shape": [3]},
    "and shape [2147483648, 2147483648]": GOOD | {"shape": [2**31, 2**31]},
    "shape [-1]: a list": GOOD | {"shape": [-1]},
    "shape [True, 2]: a list": GOOD | {"shape": [True, 2]},
    "shape 2: a list": GOOD | {"shape": 2},
    "does not fit str": GOOD | {"data": "12345678"},
    "67108864": {"__image__": True, "format": "png", "data": bomb()},
    "no readable picture": {"__image__": True, "format": "jpeg", "data": b"\xff\xd8\xff"},
    "an image without data": {"__image__": True, "format": "png", "data": "text"},
    "dtype None": {"__image__": True, "format": "svg", "data": b"<svg/>"},
}


@pytest.mark.parametrize("told", BAD)
def test_what_is_no_array_is_refused(told: str) -> None:
    forms = [(BAD[told], packing.text_keys)]
    if "__ndarray__" in BAD[told]:
        forms.append(({name.encode(): part for name, part in BAD[told].items()}, packing.bytes_keys))
    for form, hook in forms:
        with pytest.raises(ValueError) as error:  # noqa: PT011 - its text is compared below
            packing.unpack(msgpack.packb(form), hook)
        assert told.replace("67108864", "8192 x 8192") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "message",
    [b"", b"\xc1", b"\x81\xa1x", b"\xdd\xff\xff\xff\xff", b"\x91" * 2000, b"\x81\x90\x01", b"\xa1\xff", b"\x01\x02"],
)
def test_what_is_no_msgpack_is_refused(message: bytes) -> None:
    for hook in (packing.bytes_keys, packing.text_keys, packing.npy_maps):
        with pytest.raises(ValueError, match=f"^message of {len(message)} bytes: "):
            packing.unpack(message, hook)


def test_arrays_as_files_hold_no_objects() -> None:
    stored = io.BytesIO()
    np.save(stored, np.array([{}], object), allow_pickle=True)
    for content in (stored.getvalue(), b"\x93NUMPY\x09\x00", b"", stored.getvalue()[:20]):
        with pytest.raises(ValueError, match="message of"):
            packing.unpack(msgpack.packb({"__ndarray_class__": True, "as_npy": content}), packing.npy_maps)


@settings(max_examples=40, deadline=None)
@given(ANY)
def test_arrays_as_files_come_back(array: np.ndarray) -> None:
    for order in (array, np.asfortranarray(array)):
        found = packing.unpack(packing.pack(order, packing.with_npy), packing.npy_maps)
        np.testing.assert_array_equal(found, order)
        assert found.dtype == order.dtype

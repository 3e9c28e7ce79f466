"""Augmentation: hand-worked pictures, and Pillow's and the standard library's answers."""

import colorsys
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from pirl_core.params.sections import Sft
from pirl_core.sft.augment import Draw, augment, draw, draw_shift, jitter, shift_images, turn_hue, warp
from tests.sft.test_sft import BASE

OFF = {key: 0 if key == "image_shift" else 0.0 for key in BASE if key.startswith("image_")}
OPENPI = OFF | {
    "image_crop": 0.05, "image_rotation": 5.0, "image_brightness": 0.3, "image_contrast": 0.4, "image_saturation": 0.5,
}  # fmt: skip
CAMERAS = ["corner2", "gripperPOV"]


def section(**changes: Any) -> Sft:
    return Sft.model_validate(BASE | OFF | changes)


def pictures(count: int, cameras: int = 2, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, cameras, size, size, 3)).astype(np.uint8)


def changed(images: np.ndarray, sft: Sft, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return augment(images, CAMERAS, draw(rng, draw_shift(rng, len(images), sft), sft), sft)


def test_at_strength_zero_nothing_changes() -> None:
    """Bit for bit, whether the steps are left out or taken with draws that change nothing."""
    images = pictures(3)
    assert changed(images, section()) is images
    nothing = Draw(np.zeros((3, 2), int), np.zeros((3, 2)), np.zeros(3), np.tile([1.0, 1.0, 1.0, 0.0], (3, 1)))
    assert np.array_equal(augment(images, CAMERAS, nothing, section(image_contrast=0.4)), images)
    assert np.array_equal(augment(images, CAMERAS, nothing, section(image_rotation=5.0)), images)


@pytest.mark.parametrize("quarters", [-1, 1, 2])
def test_right_angles_are_numpys(quarters: int) -> None:
    images = pictures(2, cameras=1)
    none = Draw(np.zeros((2, 2), int), np.zeros((2, 2)), np.full(2, quarters * math.pi / 2), np.zeros((2, 4)))
    turned = augment(images, ["corner2"], none, section(image_rotation=180.0))
    assert np.array_equal(turned, np.rot90(images, quarters, (2, 3)))


def test_a_crop_of_a_ramp_is_a_gentler_ramp() -> None:
    """A picture that says where it is: pixel centres of half the width around 0.25 lie at 0.25 + 0.5 x."""
    places = (torch.arange(8) + 0.5) / 4 - 1
    ramp = torch.stack([places.expand(8, 8), places[:, None].expand(8, 8), torch.zeros(8, 8)])[None, None]
    cut = warp(ramp, 0.5, np.array([[0.25, -0.125]]), np.zeros(1))[0, 0]
    torch.testing.assert_close(cut[0], (0.25 + 0.5 * places).expand(8, 8))
    torch.testing.assert_close(cut[1], (-0.125 + 0.5 * places)[:, None].expand(8, 8))


def test_a_wrist_camera_is_neither_cropped_nor_rotated() -> None:
    images = pictures(4)
    seen = changed(images, section(image_crop=0.05, image_rotation=5.0))
    assert np.array_equal(seen[:, 1], images[:, 1]) and not np.array_equal(seen[:, 0], images[:, 0])
    coloured = changed(images, section(image_brightness=0.3))
    assert (coloured != images).any((0, 2, 3, 4)).all()


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.3])
@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Color"])
def test_colours_are_pillows(name: str, factor: float) -> None:
    """To two of 255 levels: Pillow rounds at each step, its contrast the mean too."""
    image = pictures(1, cameras=1)
    place = ["Brightness", "Contrast", "Color"].index(name)
    colour = np.array([[1.0, 1.0, 1.0, 0.0]])
    colour[0, place] = factor
    x = torch.from_numpy(image).permute(0, 1, 4, 2, 3) / 255
    ours = jitter(x, colour)[0, 0].permute(1, 2, 0).numpy() * 255
    theirs = getattr(ImageEnhance, name)(Image.fromarray(image[0, 0])).enhance(factor)
    assert np.abs(ours - np.asarray(theirs, np.float32)).max() <= 2


@pytest.mark.parametrize("turn", [-0.3, 0.08, 0.5, 1.0])
def test_the_turned_hue_is_the_standard_librarys(turn: float) -> None:
    """Greys and pure colours among them."""
    corners = [[a, b, c] for a in (0.0, 1.0) for b in (0.0, 0.4, 1.0) for c in (0.0, 1.0)]
    colours = np.concatenate([corners, np.random.default_rng(0).random((52, 3))])
    found = (
        turn_hue(torch.from_numpy(colours.T.reshape(3, 8, 8)), torch.tensor(turn, dtype=torch.float64))
        .numpy()
        .reshape(3, -1)
        .T
    )
    for before, after in zip(colours, found, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        np.testing.assert_allclose(after, colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), atol=1e-9)


def test_draws_fill_their_ranges_and_no_more() -> None:
    sft = section(**OPENPI | {"image_shift": 3, "image_hue": 0.08})
    rng = np.random.default_rng(0)
    found = draw(rng, draw_shift(rng, 20_000, sft), sft)
    assert set(found.shift.ravel()) == set(range(-3, 4))
    ranges = {
        "center": (found.center, 0.05), "angle": (found.angle, math.radians(5)),
        "brightness": (found.colour[:, 0] - 1, 0.3), "contrast": (found.colour[:, 1] - 1, 0.4),
        "saturation": (found.colour[:, 2] - 1, 0.5), "hue": (found.colour[:, 3], 0.08),
    }  # fmt: skip
    for name, (values, reach) in ranges.items():
        assert -reach <= values.min() < -0.99 * reach and 0.99 * reach < values.max() <= reach, name
        assert abs(values.mean()) < 0.02 * reach, name


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(0, 1), min_size=6, max_size=6), st.integers(0, 99))
def test_a_sample_gets_the_same_however_the_batch_is_shared_out(count: int, owner: list[int], seed: int) -> None:
    """Over ranks or micro-batches; and once more from the same seed, and all within the range of a byte."""
    sft = section(**OPENPI | {"image_shift": 2, "image_hue": 0.5})
    images = pictures(count, seed=seed)
    rng = np.random.default_rng(seed)
    change = draw(rng, draw_shift(rng, count, sft), sft)
    whole = augment(images, CAMERAS, change, sft)
    assert whole.dtype == np.uint8 and whole.shape == images.shape
    assert np.array_equal(whole, changed(images, sft, seed))
    for rank in (0, 1):
        mine = np.flatnonzero(np.array(owner[:count]) == rank)
        if len(mine):
            assert np.array_equal(augment(images[mine], CAMERAS, change.of(mine), sft), whole[mine])
    assert count == 1 or not np.array_equal(changed(images, sft, seed + 1), whole)


def shift_slowly(images: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Pixel by pixel: the pixel at (y, x) comes from (y + dy, x + dx), or from the border nearest to it."""
    result = np.empty_like(images)
    count, cameras, size = images.shape[:3]
    for b in range(count):
        for c in range(cameras):
            for y in range(size):
                for x in range(size):
                    row, column = np.clip([y + offsets[b, 0], x + offsets[b, 1]], 0, size - 1)
                    result[b, c, y, x] = images[b, c, row, column]
    return result


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_shift_images_against_a_slow_loop(data: st.DataObject) -> None:
    count, cameras, size = (data.draw(st.integers(low, high)) for low, high in ((1, 3), (0, 3), (1, 7)))
    images = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, (count, cameras, size, size, 3))
    reach = data.draw(st.integers(0, 9))  # beyond the size too
    offset = st.integers(-reach, reach)
    offsets = np.array(data.draw(st.lists(st.tuples(offset, offset), min_size=count, max_size=count)))
    images = images.astype(np.uint8)
    before = images.copy()
    assert np.array_equal(shift_images(images, offsets), shift_slowly(images, offsets))
    assert np.array_equal(images, before)

"""Put-on-plate without its simulator: every set's counts and grids against the published numbers, pictures, rules."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pirl_core.envs.put_on_plate import names, overlay
from pirl_core.envs.put_on_plate.facts import FACTS
from pirl_core.envs.put_on_plate.rules import Contact, Reward, on_plate, world_box
from pirl_core.envs.put_on_plate.variations import (
    FAR,
    NEAR,
    SINGLE,
    VARIATIONS,
    arm_offsets,
    decode,
    grid,
    places,
    radices,
    ring,
    size,
    variation_of,
)

ALL = "put_on_plate"

# Objects, plates, extras, tables, places, yaws.
COUNTS = {
    "none": (16, 1, 1, 16, 784, 4),
    "combinations": (16, 17, 1, 16, 784, 4),
    "unseen": (9, 1, 1, 5, 784, 4),
    "instruct": (16, 1, 16, 16, 784, 4),
    "vision_image": (16, 1, 1, 5, 784, 4),
    "vision_texture03": (16, 1, 16, 16, 784, 4),
    "vision_texture05": (16, 1, 16, 16, 784, 4),
    "vision_whole03": (16, 1, 16, 16, 784, 4),
    "vision_whole05": (16, 1, 16, 16, 784, 4),
    "multi_carrot_train": (16, 1, 15, 16, 2104, 4),
    "multi_carrot_test": (9, 1, 8, 16, 2104, 4),
    "multi_plate_train": (16, 1, 16, 21, 2104, 4),
    "multi_plate_test": (16, 16, 15, 21, 2104, 4),
    "position": (16, 1, 1, 16, 628, 4),
    "position_change_to": (16, 1, 1, 16, 2104, 4),
    "ee_pose": (16, 1, 14375, 16, 784, 4),
    "carrot": (9, 1, 1, 16, 784, 4),
    "plate": (16, 16, 1, 16, 784, 4),
}


def test_every_set_has_the_published_counts() -> None:
    assert {shift: radices(variation_of(shift, ALL)) for shift in VARIATIONS} == COUNTS
    assert size(VARIATIONS["none"]) == 802_816
    assert size(VARIATIONS["unseen"]) == 141_120
    assert (len(names.OBJECTS), len(names.PLATES), names.TABLES, len(names.TEMPLATES)) == (25, 17, 21, 21)
    assert set(FACTS.shifts) == set(VARIATIONS) - {"none"}


def test_the_papers_combinations_are_the_training_plate_and_the_sixteen_unseen_ones() -> None:
    combinations = {name: math.prod(COUNTS[name][:4]) for name in ("none", "plate", "combinations")}
    assert combinations == {"none": 256, "plate": 4096, "combinations": 4352}
    assert combinations["combinations"] == 16 * 17 * 16


def test_places_by_brute_force() -> None:
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.linalg.norm(b - a))

    for kind, points, count in (("pairs", grid(), 36), ("ring", ring(), 28)):
        assert len(points) == count
        pairs = [pair for pair in itertools.permutations(points, 2) if distance(*pair) > NEAR]
        np.testing.assert_array_equal(places(kind), pairs)
    far = [
        (a, b, c)
        for a, b, c in itertools.product(grid(), repeat=3)
        if distance(a, b) > NEAR and distance(c, b) > NEAR and distance(a, c) > FAR
    ]
    np.testing.assert_array_equal(places("object_far"), far)
    assert np.abs(grid() - (-0.16, 0)).max() == pytest.approx(0.075)
    assert np.abs(ring() - (-0.16, 0)).max() == pytest.approx(0.105)
    # No ring place is a grid place.
    assert min(distance(a, b) for a in grid() for b in ring()) > 0.029


def test_arm_offsets() -> None:
    offsets = arm_offsets()
    assert offsets.shape == (14375, 8)
    assert len(np.unique(offsets, axis=0)) == 14375
    assert np.abs(offsets[:, 1] + offsets[:, 2]).max() <= 0.25
    assert not offsets[:, 6:].any()


@given(st.sampled_from(sorted(VARIATIONS)), st.sampled_from([ALL, SINGLE]), st.integers(0, 10**12))
def test_decoded_starts_belong_to_their_set(shift: str, task: str, number: int) -> None:
    variation = variation_of(shift, task)
    start = decode(variation, number)
    assert start == decode(variation, number + size(variation))
    assert start.thing in variation.objects
    assert start.plate in variation.plates
    assert start.table in variation.tables
    assert start.yaw in variation.yaws
    if variation.extra == "object":
        assert start.extra != start.thing
        assert (start.extra < 16) == (start.thing < 16)
    if variation.extra == "plate":
        assert start.extra != start.plate
        assert start.extra in range(len(names.PLATES))


def test_numbers_are_written_in_mixed_radix() -> None:
    """Yaw fastest, then places, tables, and the object slowest; each number is another episode."""
    none = VARIATIONS["none"]
    assert [decode(none, n).yaw for n in range(5)] == [*none.yaws, none.yaws[0]]
    assert [decode(none, n * 4 * 784).table for n in (0, 1, 15, 16)] == [0, 1, 15, 0]
    assert [decode(none, n * 4 * 784 * 16).thing for n in (0, 1, 15)] == [0, 1, 15]
    starts = {decode(none, n) for n in range(0, size(none), 997)}
    assert len(starts) == len(range(0, size(none), 997))
    step = 4 * 2104 * 16
    assert [decode(VARIATIONS["multi_carrot_test"], n * step).extra for n in range(8)] == list(range(17, 25))
    assert [decode(VARIATIONS["multi_plate_train"], n * 4 * 2104 * 21).extra for n in range(16)] == list(range(1, 17))


def test_sentences() -> None:
    assert names.sentence(0, 0, 0) == "put carrot on plate"
    assert names.sentence(16, 9, 10) == "the toy bear should be placed on the frying pan."
    assert FACTS.tasks[SINGLE].sentences[0] == "put carrot on plate"
    assert {decode(VARIATIONS["instruct"], n * 4 * 784 * 16).extra for n in range(16)} == set(range(1, 17))


def test_textures_are_stretched_as_by_torch() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    for height, width in ((48, 64), (100, 33), (1, 200), (24, 128)):
        torches = torch.nn.functional.interpolate(
            torch.tensor(image).permute(2, 0, 1)[None].double(), (height, width), mode="bilinear", align_corners=False
        )
        np.testing.assert_allclose(overlay.resize(image, height, width), torches[0].permute(1, 2, 0), atol=1e-9)


def test_pictures() -> None:
    """Robot and objects over the photograph; the texture on them alone, or on everything, by its weight."""
    rng = np.random.default_rng(0)
    rendered, table = rng.integers(0, 256, (2, 24, 32, 3), np.uint8)
    shown = np.zeros((24, 32), bool)
    shown[5:9, 10:20] = True
    plain = overlay.on_table(rendered, shown, table)
    np.testing.assert_array_equal(plain[shown], rendered[shown])
    np.testing.assert_array_equal(plain[~shown], table[~shown])
    red = np.full((7, 5, 3), (255, 0, 0), np.uint8)
    painted = overlay.with_texture(rendered, shown, table, red, 0.5)
    np.testing.assert_array_equal(painted[~shown], table[~shown])
    np.testing.assert_allclose(painted[shown], rendered[shown] * 0.5 + np.array([127.5, 0, 0]), atol=1)
    whole = overlay.with_whole(rendered, shown, table, red, 0.3)
    np.testing.assert_allclose(whole, plain * 0.7 + np.array([76.5, 0, 0]), atol=1)
    for paint in (overlay.with_texture, overlay.with_whole):
        np.testing.assert_array_equal(paint(rendered, shown, table, red, 0.0), plain)
        nothing = np.zeros_like(shown)
        assert paint(rendered, nothing, table, red, 0.0).shape == table.shape
    # The window starts at the middle of what is shown: a texture whose red is its row, its green its column.
    rows, columns = np.mgrid[:48, :64]
    ramp = np.stack([rows, columns, rows * 0], -1).astype(np.uint8)
    window = overlay.with_whole(rendered, shown, table, ramp, 1.0)
    assert window[0, 0].tolist() == [(5 + 8) // 2, (10 + 19) // 2, 0]


def test_success_needs_place_height_and_pressure() -> None:
    half = np.array([0.05, 0.02, 0.02])
    plate = np.array([0.055, 0.055, 0.003])
    good = Contact(np.array([0.03, 0.0, 0.02]), np.zeros(3), 0.1, False)
    assert on_plate(good, half, plate)
    assert not on_plate(good._replace(thing=np.array([0.066, 0.0, 0.02])), half, plate)
    assert on_plate(good._replace(thing=np.array([0.064, 0.0, 0.02])), half, plate)
    assert not on_plate(good._replace(thing=np.array([0.03, 0.0, 0.074])), half, plate)
    assert not on_plate(good._replace(thing=np.array([0.03, 0.0, -0.001])), half, plate)
    assert not on_plate(good._replace(force=0.02), half, plate)
    turned = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(world_box(2 * half, turned), half[[1, 0, 2]])


def test_rewards() -> None:
    """0.1 once for holding, 1 for placing what was held, and by name the public code's second 0.1."""
    held = [False, True, True, False, True, True, True, True, True, True]
    for long_hold, total in ((False, 1.1), (True, 1.2)):
        reward = Reward(long_hold)
        gains = [reward.of(now, False) for now in held]
        assert gains[1] == pytest.approx(0.1)
        assert np.flatnonzero(gains).tolist() == ([1, 8] if long_hold else [1])
        assert sum(gains) + reward.of(False, True) == pytest.approx(total)
    # Pushed there, never held: the public environment ends the episode and pays nothing.
    assert Reward().of(False, True) == 0

"""How a put-on-plate episode starts: every in- and out-of-distribution set as counts and grids, without a simulator.

An episode's number within its set is written in mixed radix, the last digit fastest: object, plate, extra, table,
places, yaw. What ``extra`` means is the set's own matter: sentence template, texture, distractor or arm pose.
Metres and radians; x points from the table towards the robot, z up.

The paper counts 4,352 combinations, 16 objects × 17 receptacles × 16 tables (Appendix C.2). The public environment's
training set has one receptacle, 16 × 1 × 16 = 256 combinations (times 784 places and 4 yaws: 802,816 episodes); its
other 16 receptacles occur in the sets ``plate`` and ``multi_plate`` only. Here ``none`` is the public set, and
``combinations`` the paper's count, 256 + 4,096.
"""

import functools
import itertools
import math
from typing import Literal, NamedTuple

import numpy as np

from pirl_core import seeds
from pirl_core.envs.put_on_plate.names import OBJECTS, PLATES, TABLES

CENTRE = (-0.16, 0.0)
HALF_EDGE = 0.075
NEAR = 0.07
"""Nearer than this, an object would start on the plate."""
FAR = 0.15
"""Farther than this are a distractor from what it distracts from, and the place an object jumps to."""

TRAIN_OBJECTS, NEW_OBJECTS = range(16), range(16, len(OBJECTS))
FIRST_PLATE, NEW_PLATES, ALL_PLATES = range(1), range(1, len(PLATES)), range(len(PLATES))
TRAIN_TABLES, NEW_TABLES, ALL_TABLES = range(16), range(16, TABLES), range(TABLES)
YAWS = (0.0, math.pi / 4, math.pi / 2, math.pi * 3 / 4)
SHIFTED_YAWS = tuple(-math.pi * n / 8 for n in (1, 3, 5, 7))
JUMP_STEP = 5
"""After so many steps the object of ``position_change_to`` is at its third place."""

Places = Literal["pairs", "ring", "object_far", "plate_far"]
HEIGHTS: dict[Places, tuple[float, ...]] = {
    "pairs": (0.90, 0.90),
    "ring": (0.95, 0.95),
    "object_far": (0.95, 0.92, 1.0),
    "plate_far": (1.0, 0.92, 0.96),
}
"""z of object, plate and third place before they fall on the table (its top is at 0.87)."""
Extra = Literal["none", "template", "texture", "whole", "object", "plate", "arm", "jump"]


class Variation(NamedTuple):
    """A set of episodes. extras: values of the third digit (None: as many as there are other objects or plates).

    mix: weight of the texture in the picture.
    """

    extra: Extra = "none"
    extras: range | None = range(1)
    objects: range = TRAIN_OBJECTS
    plates: range = FIRST_PLATE
    tables: range = TRAIN_TABLES
    places: Places = "pairs"
    yaws: tuple[float, ...] = YAWS
    mix: float = 0.0


VARIATIONS = {
    "none": Variation(),
    "combinations": Variation(plates=ALL_PLATES),
    "unseen": Variation(objects=NEW_OBJECTS, tables=NEW_TABLES),
    "instruct": Variation("template", range(1, 17)),
    "vision_image": Variation(tables=NEW_TABLES),
    "vision_texture03": Variation("texture", range(1, 17), mix=0.3),
    "vision_texture05": Variation("texture", range(1, 17), mix=0.5),
    "vision_whole03": Variation("whole", range(1, 17), mix=0.3),
    "vision_whole05": Variation("whole", range(1, 17), mix=0.5),
    "multi_carrot_train": Variation("object", None, places="object_far"),
    "multi_carrot_test": Variation("object", None, objects=NEW_OBJECTS, places="object_far"),
    "multi_plate_train": Variation("plate", None, tables=ALL_TABLES, places="plate_far"),
    "multi_plate_test": Variation("plate", None, plates=NEW_PLATES, tables=ALL_TABLES, places="plate_far"),
    "position": Variation(places="ring", yaws=SHIFTED_YAWS),
    "position_change_to": Variation("jump", places="object_far"),
    "ee_pose": Variation("arm", range(1, 14376)),
    "carrot": Variation(objects=NEW_OBJECTS),
    "plate": Variation(plates=NEW_PLATES),
}
"""By the name of the shift; ``none`` and ``unseen`` are Main-v3's train and test sets, the others the sets of Table 7
(``<name>-v1-test`` unless the name says train) and the three that the public set has beyond it."""

SHARES: dict[seeds.Use, range] = {
    "demonstration": range(6),
    "training": range(6),
    "validation": range(6, 7),
    "evaluation": range(7, 8),
}
"""Eighths of all layouts that episodes may start with, by what they are for. The public environment evaluates the
training set on any of its starts, those that were trained on included."""

SINGLE = "put_carrot_on_plate"
"""The task that keeps to the first object, plate and table of its set; ``put_on_plate`` has them all."""


class Start(NamedTuple):
    """An episode's start. extra: value of the third digit. places: xyz of the object, of the plate and of the third
    place (distractor, or where the object jumps to), if there is one. yaw: of the object."""

    thing: int
    plate: int
    extra: int
    table: int
    places: tuple[tuple[float, float, float], ...]
    yaw: float


def grid() -> np.ndarray:
    """The 36 places of training (36, 2): 6 × 6, 3 cm apart."""
    steps = np.arange(6) / 5
    return _on_table([(x, y) for x in steps for y in steps])


def ring() -> np.ndarray:
    """The 28 places just outside the grid (28, 2), the next row on each side."""
    steps = np.arange(-1, 7) / 5
    return _on_table([(x, y) for x in steps for y in steps if {x, y} & {steps[0], steps[-1]}])


def _on_table(shares: list[tuple[float, float]]) -> np.ndarray:
    places: np.ndarray = (np.array(shares) * 2 - 1) * HALF_EDGE + np.array(CENTRE)
    return places


@functools.cache
def places(kind: Places) -> np.ndarray:
    """Every choice of places (N, 2 or 3, 2) in the order of the public environments: object, plate, third.

    Pairs keep object and plate apart; triples also keep the third one away from what it competes with.
    """
    points = ring() if kind == "ring" else grid()
    # Distances of exactly 0.15 m lie on the grid: rounding decides about 128 triples, so np.linalg.norm it must be.
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    count = range(len(points))
    pairs = [(i, j) for i in count for j in count if apart[i, j] > NEAR]
    from_object, from_plate = (FAR, NEAR) if kind == "object_far" else (NEAR, FAR)
    triples = [(i, j, k) for i, j in pairs for k in count if apart[i, k] > from_object and apart[k, j] > from_plate]
    rows: np.ndarray = points[np.array(pairs if kind in ("pairs", "ring") else triples)]
    return rows


@functools.cache
def arm_offsets() -> np.ndarray:
    """The 14,375 offsets (14375, 8) of ``ee_pose`` from the arm's usual joint positions, six joints and two fingers."""
    small, wrist = (-0.15, -0.08, 0.0, 0.08, 0.15), (-0.6, -0.3, 0.0, 0.3, 0.6)
    offsets = [
        (*joints, 0.0, 0.0) for joints in itertools.product(*[small] * 5, wrist) if abs(joints[1] + joints[2]) <= 0.25
    ]
    return np.array(offsets)


def variation_of(shift: str, task: str) -> Variation:
    """The set of a shift; for ``SINGLE`` cut down to its first object, plate and table."""
    variation = VARIATIONS[shift]
    if task != SINGLE:
        return variation
    return variation._replace(
        objects=variation.objects[:1],
        plates=variation.plates[:1],
        tables=variation.tables[:1],
        extras=_extras(variation),
    )


def _extras(variation: Variation) -> range:
    if variation.extras is not None:
        return variation.extras
    # A single training plate competes with all the others.
    others = {"object": len(variation.objects), "plate": max(len(variation.plates), len(PLATES) - variation.plates[0])}
    return range(others[variation.extra] - 1)


def radices(variation: Variation) -> tuple[int, ...]:
    """How many objects, plates, extras, tables, places and yaws."""
    counts = (variation.objects, variation.plates, _extras(variation), variation.tables)
    return (*map(len, counts), len(places(variation.places)), len(variation.yaws))


def size(variation: Variation) -> int:
    """Episodes in the set."""
    return math.prod(radices(variation))


def decode(variation: Variation, number: int) -> Start:
    """Start of episode ``number`` of the set, taken modulo its size."""
    digits = []
    for radix in reversed(radices(variation)):
        number, digit = divmod(number, radix)
        digits.append(digit)
    yaw, place, table, extra, plate, thing = digits
    chosen = places(variation.places)[place]
    return Start(
        variation.objects[thing],
        variation.plates[plate],
        _extra(variation, thing, plate, extra),
        variation.tables[table],
        tuple((float(x), float(y), z) for (x, y), z in zip(chosen, HEIGHTS[variation.places], strict=True)),
        variation.yaws[yaw],
    )


def draw(variation: Variation, episode_seed: int) -> Start:
    """The start of an episode: one of the set whose layout is in the share of what the episode is for."""
    rng, share = seeds.generator("start", episode_seed), SHARES[seeds.use_of(episode_seed)]
    while True:
        start = decode(variation, int(rng.integers(size(variation))))
        if share_of(start) in share:
            return start


def share_of(start: Start) -> int:
    """The eighth that a start's layout is in: which object and plate lie where (mm, thousandths of a radian), whatever
    the table, the picture, the sentence and the third thing. So no shifted set evaluates on a layout of training's."""
    numbers = [*(value for place in start.places[:2] for value in place[:2]), start.yaw]
    layout = (start.thing, start.plate, *(round(1000 * value) for value in numbers))
    return seeds.integer("share", *layout) % SHARES["evaluation"].stop


def _extra(variation: Variation, thing: int, plate: int, extra: int) -> int:
    """The extra's value. A distractor is the ``extra``-th after the target, around the circle of its kind.

    The public code takes an unseen object's distractor modulo 9 after adding 16, so that one in eight is the target
    itself and no distractor shows; here each of the eight others comes up.
    """
    if variation.extra == "object":
        # The single task has one object, its distractors are those of the whole set.
        first = variation.objects[0]
        circle = len(NEW_OBJECTS if first in NEW_OBJECTS else TRAIN_OBJECTS)
        return first + (thing + extra + 1) % circle
    if variation.extra == "plate":
        first = variation.plates[0]
        return first + (plate + extra + 1) % (len(PLATES) - first)
    return _extras(variation)[extra]

"""CALVIN's long-horizon protocol: 1,000 sequences of five subtasks, and the scene that each begins in.

CALVIN draws the sequences anew in each evaluation, in minutes; they are the same each time, so the list is kept in
``sequences.txt``; a test draws it again. Training draws others, by the same rules (π_RL, App. C.3).
"""

import functools
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pirl_core.envs.calvin.subtasks import COLOURS, KEYS, SLOTS, SUBTASKS, Condition, follow

FILE = Path(__file__).with_name("sequences.txt")
LENGTH = 5
SUBTASK_STEPS = 360
"""Time limit of one subtask, alone or in a sequence, in actions."""

ROBOT = np.array([
    0.02586889, -0.2313129, 0.5712808, 3.09045411, -0.02908596, 1.50013585, 0.07999963, -1.21779124, 1.03987629,
    2.11978254, -2.34205014, -0.87015899, 1.64119093, 0.55344928, 1.0,
])  # fmt: skip
"""Robot observation (15,) at the start of every sequence: hand position (m) and Euler angles (rad), gripper opening
(m), joints (rad), gripper command."""

SLIDER_OPEN, DRAWER_OPEN, SWITCH_ON = 0.28, 0.22, 0.088
_PLACES = {
    "slider_left": (-2.40851662e-01, 9.24044687e-02, 4.60990009e-01),
    "slider_right": (7.03416330e-02, 9.24044687e-02, 4.60990009e-01),
}
_TABLE = ((5.00000896e-02, -1.20000177e-01, 4.59990009e-01), (2.29995412e-01, -1.19995140e-01, 4.59990010e-01))
"""Of scene D, in metres."""
YAW = (np.pi / 2 - np.pi / 8, np.pi / 2 + np.pi / 8)


class Sequence(NamedTuple):
    condition: Condition
    subtasks: tuple[str, ...]


def conditions() -> list[Condition]:
    """The 192 starts: one or two blocks on the table, the others in different slots of the cabinet."""
    found = []
    for values in product(*KEYS.values()):
        if values.count("table") in (1, 2) and all(values.count(slot) < 2 for slot in SLOTS):
            found.append(dict(zip(KEYS, values, strict=True)))
    return found


@functools.cache
def sequences() -> tuple[Sequence, ...]:
    """The 1,000 of the published evaluation, in its order."""
    names, starts = list(SUBTASKS), conditions()
    rows = [[int(word) for word in line.split()] for line in FILE.read_text().splitlines()]
    return tuple(Sequence(starts[row[0]], tuple(names[index] for index in row[1:])) for row in rows)


def draw(count: int) -> list[tuple[int, tuple[int, ...]]]:
    """The published draw: number of the condition and of its subtasks, shuffled; about 40 s for 1,000.

    The starts share ``count`` as evenly as can be; start i draws from a generator seeded with i.
    """
    names, starts = list(SUBTASKS), conditions()
    drawn = []
    for index, share in enumerate(np.array_split(np.arange(count), len(starts))):
        rng = np.random.RandomState(index)
        drawn += [(index, _possible(starts[index], names, rng)) for _ in share]
    order = np.arange(count)
    np.random.RandomState(0).shuffle(order)
    return [drawn[row] for row in order]


def draw_other(rng: np.random.Generator) -> Sequence:
    """A sequence by the published rules that is none of the 1,000: any of the starts, then five subtasks."""
    names, starts = list(SUBTASKS), conditions()
    while True:
        start = starts[rng.integers(len(starts))]
        drawn = Sequence(start, tuple(names[index] for index in _possible(start, names, rng)))
        if drawn not in sequences():
            return drawn


def _possible(start: Condition, names: list[str], rng: np.random.RandomState | np.random.Generator) -> tuple[int, ...]:
    """The next drawn sequence that can be done, with no two subtasks of one category."""
    categories = [subtask.category for subtask in SUBTASKS.values()]
    while True:
        drawn = rng.permutation(len(names))[:LENGTH].tolist()
        if len({categories[index] for index in drawn}) < LENGTH:
            continue
        condition: Condition | None = start
        for index in drawn:
            condition = condition and follow(condition, names[index])
        if condition:
            return tuple(drawn)


def fnv0(text: str) -> int:
    """FNV-0, 32 bits: pyhash's fnv1_32, whose seed is 0 unless one is given."""
    value = 0
    for byte in text.encode():
        value = (value * 0x01000193) % 2**32 ^ byte
    return value


def scene_of(condition: Condition) -> np.ndarray:
    """Scene observation (24,) of scene D: door and drawer (m), button (m), switch (rad), lightbulb, led, then position
    (m) and Euler angles of the red, blue and pink block.

    The condition's hash seeds which block lies where on the table, and each one's yaw.
    """
    rng = np.random.RandomState(fnv0(f"dict_values({list(condition.values())})"))
    table = list(_TABLE)
    rng.shuffle(table)
    scene = np.zeros(24)
    scene[0] = SLIDER_OPEN * (condition["slider"] == "left")
    scene[1] = DRAWER_OPEN * (condition["drawer"] == "open")
    scene[3] = SWITCH_ON * (condition["lightbulb"] == 1)
    scene[4:6] = condition["lightbulb"], condition["led"]
    for index, colour in enumerate(COLOURS):
        place, block = condition[f"{colour}_block"], scene[6 + 6 * index : 12 + 6 * index]
        # Never are three blocks on the table: the red one takes the first place, the pink one the second.
        first = colour == "red" or (colour == "blue" and condition["red_block"] != "table")
        block[:3] = table[0 if first else 1] if place == "table" else _PLACES[str(place)]
        block[5] = rng.uniform(*YAW)
    return scene

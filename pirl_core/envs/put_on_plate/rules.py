"""When the object is on the plate, and what that is worth. Metres and newtons, world frame."""

from typing import NamedTuple

import numpy as np

ASIDE = 0.01
ABOVE = 0.05
PRESSES = 0.03
HELD_STEPS = 5


class Contact(NamedTuple):
    """What the simulator says after a step: positions (3,), force between object and plate, whether it is held."""

    thing: np.ndarray
    plate: np.ndarray
    force: float
    held: bool


def world_box(size: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Half edges (3,) of the upright box around a box with edges ``size`` (3,) turned by ``turn`` (3, 3)."""
    half: np.ndarray = np.abs(turn) @ (size / 2)
    return half


def on_plate(contact: Contact, thing_half: np.ndarray, plate_half: np.ndarray) -> bool:
    """The public environment's success: above the plate, near its middle, and pressing on it.

    thing_half, plate_half: half edges of their boxes at the start (``world_box``).
    """
    apart = contact.thing - contact.plate
    beside = np.linalg.norm(apart[:2]) <= plate_half.max() + ASIDE
    height = 0 < apart[2] <= plate_half[2] + thing_half[2] + ABOVE
    return bool(beside and height and contact.force > PRESSES)


class Reward:
    """Of one episode: 0.1 when the object is first held, 1 when it is on the plate after it was held (Appendix C.2).

    long_hold: the official code's second 0.1, for holding five steps on end.
    """

    def __init__(self, long_hold: bool = False) -> None:
        self._long_hold = long_hold
        self._row = 0
        self._paid = 0.0
        self._best = [False, False]

    def of(self, held: bool, placed: bool) -> float:
        """What this step adds."""
        self._row = self._row + 1 if held else 0
        self._best = [self._best[0] or held, self._best[1] or self._row >= HELD_STEPS]
        total = 0.1 * self._best[0] + 0.1 * (self._long_hold and self._best[1]) + 1.0 * (placed and self._best[0])
        gain, self._paid = total - self._paid, total
        return gain

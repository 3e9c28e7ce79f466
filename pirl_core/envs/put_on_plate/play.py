"""One episode of put-on-plate as it is played: what lies where, what a step is worth, how a picture looks.

World frame in metres, quaternions (w, x, y, z). Axes: H W pixels.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from pirl_core.envs.put_on_plate import assets, overlay
from pirl_core.envs.put_on_plate.facts import FACTS, LONG_HOLD
from pirl_core.envs.put_on_plate.names import sentence
from pirl_core.envs.put_on_plate.rules import Contact, Reward, on_plate, world_box
from pirl_core.envs.put_on_plate.variations import JUMP_STEP, arm_offsets, draw, variation_of
from pirl_core.envs.widowx import rotation
from pirl_core.types import Episode

START = np.array([-0.01840777, 0.0398835, 0.22242722, -0.00460194, 1.36524296, 0.00153398, 0.037, 0.037])
"""Joint positions at the start, measured on BridgeData's robot."""


class Placed(NamedTuple):
    """xyz in m, yaw in rad about z."""

    xyz: tuple[float, float, float]
    yaw: float

    def numbers(self) -> np.ndarray:
        """Position and quaternion (7,)."""
        return np.array([*self.xyz, np.cos(self.yaw / 2), 0, 0, np.sin(self.yaw / 2)])


class Play:
    """The seed draws the start from the shift's set. The object and the plate are the first two of ``bodies``.

    bodies: kind and number of what lies on the table. places: of these. joints: (8,) at the start.
    """

    def __init__(self, episode: Episode, limit: int) -> None:
        """limit: steps. Raises UserError for an unknown shift, and where assets are missing."""
        FACTS.check_shift(episode.shift)
        self.variation = variation_of(episode.shift, episode.task)
        self.start = start = draw(self.variation, episode.seed)
        extra = self.variation.extra
        self.bodies: list[tuple[assets.Kind, int]] = [("carrot", start.thing), ("plate", start.plate)]
        self.places = [Placed(start.places[0], start.yaw), Placed(start.places[1], 0.0)]
        if extra in ("object", "plate"):
            kind: assets.Kind = "carrot" if extra == "object" else "plate"
            self.bodies.append((kind, start.extra))
            self.places.append(Placed(start.places[2], start.yaw if kind == "carrot" else 0.0))
        self.joints = START + (arm_offsets()[start.extra - 1] if extra == "arm" else 0.0)
        # Half edges of object and plate as they lie at the start.
        self._halves = [
            world_box(np.subtract(*bounds(kind, number)[::-1]), rotation(placed.numbers()[3:]))
            for (kind, number), placed in zip(self.bodies[:2], self.places, strict=False)
        ]
        self._reward = Reward(long_hold=episode.task == LONG_HOLD)
        self._limit = limit
        self._steps = 0

    def advance(self) -> Placed | None:
        """Count a step; where the object jumps to after it, if it does."""
        self._steps += 1
        if self.variation.extra == "jump" and self._steps == JUMP_STEP:
            return Placed(self.start.places[2], self.start.yaw)
        return None

    def judge(self, contact: Contact) -> tuple[float, bool, bool]:
        """What the step that ended in ``contact`` brings: reward, terminated (on the plate), truncated."""
        placed = on_plate(contact, *self._halves)
        return self._reward.of(contact.held, placed), placed, not placed and self._steps >= self._limit

    def instruction(self) -> str:
        template = self.start.extra if self.variation.extra == "template" else 0
        return sentence(template, self.start.thing, self.start.plate)

    def picture(self, rendered: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """The rendered picture (H, W, 3) uint8, of which ``shown`` (H, W) is robot or bodies, over the photograph."""
        table = _table(self.start.table, *shown.shape)
        match self.variation.extra:
            case "texture":
                paint = assets.texture(self.start.extra)
                return overlay.with_texture(rendered, shown, table, paint, self.variation.mix)
            case "whole":
                paint = assets.texture(self.start.extra)
                return overlay.with_whole(rendered, shown, table, paint, self.variation.mix)
            case _:
                return overlay.on_table(rendered, shown, table)


@cache
def bounds(kind: assets.Kind, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (3,) of a body's box in its own frame."""
    box = assets.models(kind)[assets.key(kind, number)]["bbox"]
    return np.array(box["min"]), np.array(box["max"])


@cache
def _table(number: int, height: int, width: int) -> np.ndarray:
    return overlay.resize(assets.table(number), height, width).round().astype(np.uint8)

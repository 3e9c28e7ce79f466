"""What is known of SIMPLER's four WidowX tasks without their simulator (Li et al. 2024; Tables 8 and 12 of the paper).

As mani_skill 3.0.1 has them: sentences, time limits and lists of starts.
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from pirl_core import seeds
from pirl_core.envs.put_on_plate.facts import CAMERA, JOINTS
from pirl_core.envs.put_on_plate.facts import FACTS as PUT_ON_PLATE
from pirl_core.facts import Facts, Task


class Pick(NamedTuple):
    """steps: the most that mani_skill gives an episode. starts: places times orientations in its list. spread: how far
    drawn starts lie from listed ones, the object's and the target's place, m along x and y."""

    sentence: str
    group: str
    steps: int
    starts: int
    spread: tuple[float, float]


TABLE, SINK = (0.02, 0.02), (0.005, 0.0)
PICKS = {
    "PutSpoonOnTableClothInScene-v1": Pick("put the spoon on the towel", "spoon", 60, 24, TABLE),
    "PutCarrotOnPlateInScene-v1": Pick("put carrot on plate", "carrot", 60, 24, TABLE),
    "StackGreenCubeOnYellowCubeBakedTexInScene-v1": Pick(
        "stack the green block on the yellow block", "cube", 60, 24, TABLE
    ),
    "PutEggplantInBasketScene-v1": Pick("put eggplant into yellow basket", "eggplant", 120, 64, SINK),
}
TURN = math.pi / 8
"""How far the object of a drawn start is turned from a listed one, rad: half of the least between two listed ones."""


class Start(NamedTuple):
    """Near number ``number`` of mani_skill's list. moved: the object's and the target's displacement along x and y, m.
    turned: the object about z, rad."""

    number: int
    moved: tuple[tuple[float, float], tuple[float, float]]
    turned: float


def draw(task: str, episode_seed: int) -> Start:
    """The start of an episode between the listed ones, which are left to the evaluation."""
    rng, pick = seeds.generator("start", episode_seed), PICKS[task]
    number = int(rng.integers(pick.starts))
    (x, y), (other_x, other_y) = (rng.uniform(-spread, spread, 2).tolist() for spread in pick.spread)
    return Start(number, ((x, y), (other_x, other_y)), rng.uniform(-TURN, TURN))


def _listed(task: str, shift: str) -> Sequence[Hashable]:
    return [(task, number) for number in range(PICKS[task].starts)] if shift == "listed" else ()


FACTS = Facts(
    label="SIMPLER",
    tasks={name: Task((pick.sentence,), pick.group, steps=pick.steps) for name, pick in PICKS.items()},
    groups=tuple(pick.group for pick in PICKS.values()),
    cameras=(CAMERA,),
    # mani_skill's list of starts, by the episode's number: the published evaluation. none: drawn between them.
    shifts=("listed",),
    state=JOINTS,
    object_state=PUT_ON_PLATE.object_state,
    action=PUT_ON_PLATE.action,
    rate=5,
    robot="widowx",
    action_range=None,
    listed=_listed,
    assets="maniskill",
)

"""What is known of SIMPLER's four WidowX tasks without their simulator (Li et al. 2024; Tables 8 and 12 of the paper).

As mani_skill 3.0.1 has them: sentences, time limits and lists of starts.
"""

from typing import NamedTuple

from pirl_core.envs.facts import Facts, Task
from pirl_core.envs.put_on_plate.facts import CAMERA, JOINTS
from pirl_core.envs.put_on_plate.facts import FACTS as PUT_ON_PLATE


class Pick(NamedTuple):
    """steps: the most that mani_skill gives an episode. starts: places times orientations in its list."""

    sentence: str
    group: str
    steps: int
    starts: int


PICKS = {
    "PutSpoonOnTableClothInScene-v1": Pick("put the spoon on the towel", "spoon", 60, 24),
    "PutCarrotOnPlateInScene-v1": Pick("put carrot on plate", "carrot", 60, 24),
    "StackGreenCubeOnYellowCubeBakedTexInScene-v1": Pick("stack the green block on the yellow block", "cube", 60, 24),
    "PutEggplantInBasketScene-v1": Pick("put eggplant into yellow basket", "eggplant", 120, 64),
}

FACTS = Facts(
    label="SIMPLER",
    tasks={name: Task((pick.sentence,), pick.group) for name, pick in PICKS.items()},
    groups=tuple(pick.group for pick in PICKS.values()),
    cameras=(CAMERA,),
    # mani_skill's list of starts, by the episode's number; none: one of them, drawn from the seed.
    shifts=("listed",),
    state=JOINTS,
    object_state=PUT_ON_PLATE.object_state,
    action=PUT_ON_PLATE.action,
    rate=5,
    robot="widowx",
    action_range=None,
)

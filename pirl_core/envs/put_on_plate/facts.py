"""What is known of put-on-plate without its simulator."""

from pirl_core.envs.put_on_plate.names import OBJECTS, PLATES, TEMPLATES, sentence
from pirl_core.envs.put_on_plate.variations import SINGLE, VARIATIONS
from pirl_core.facts import Facts, Task

JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "left_finger", "right_finger")
CAMERA = "third_view"
LONG_HOLD = "put_on_plate_long_hold"
"""The same with the official code's reward: a second 0.1 for holding five steps on end."""


def _sentences(objects: int, plates: int) -> tuple[str, ...]:
    return tuple(
        sentence(template, thing, plate)
        for template in range(len(TEMPLATES))
        for thing in range(objects)
        for plate in range(plates)
    )


FACTS = Facts(
    label="put-on-plate",
    tasks={
        "put_on_plate": Task(_sentences(len(OBJECTS), len(PLATES)), "all"),
        LONG_HOLD: Task(_sentences(len(OBJECTS), len(PLATES)), "all"),
        SINGLE: Task(_sentences(1, 1), "single"),
    },
    groups=("all", "single"),
    cameras=(CAMERA,),
    shifts=tuple(name for name in VARIATIONS if name != "none"),
    state=JOINTS,
    # Joints, then position and quaternion (w, x, y, z) of the gripper, the object and the plate in the world.
    object_state=len(JOINTS) + 3 * 7,
    # Displacement of the gripper's target in the robot's frame, in m, its rotation about x, y, z, in rad, and the
    # gripper, -1 closed to 1 open: the units of the published checkpoints.
    action=("dx", "dy", "dz", "drx", "dry", "drz", "gripper"),
    rate=5,
    robot="widowx",
    action_range=None,
    on_gpu=("put_on_plate", LONG_HOLD, SINGLE),
    assets="maniskill",
)

"""ManiSkill's table-top tasks for a Panda arm that come with a motion-planning solution and need no download.

Names, time limits and what counts as solved are mani_skill's (arXiv 2410.00425, version 3.0.1); instructions and groups
are ours.
"""

from pirl_core.facts import Facts, Task

TASKS = {
    "PushCube-v1": Task(("push the blue cube forward onto the target",), "push"),
    "PullCube-v1": Task(("pull the blue cube back onto the target",), "push"),
    "PickCube-v1": Task(("pick up the red cube and hold it at the green goal",), "grasp"),
    "LiftPegUpright-v1": Task(("stand the peg upright on the table",), "grasp"),
    "StackCube-v1": Task(("put the red cube on the green cube",), "place"),
    "PlaceSphere-v1": Task(("put the blue ball into the bin",), "place"),
    "PegInsertionSide-v1": Task(("insert the peg into the hole in the side of the box",), "insert"),
}

BODIES = {
    "PushCube-v1": ("obj", "goal_region"),
    "PullCube-v1": ("obj", "goal_region"),
    "PickCube-v1": ("cube",),
    "LiftPegUpright-v1": ("peg",),
    "StackCube-v1": ("cubeA", "cubeB"),
    "PlaceSphere-v1": ("obj", "bin"),
    "PegInsertionSide-v1": ("peg", "box"),
}
"""Attributes of mani_skill's environments whose poses make the object state, at most MOST_BODIES."""

MOST_BODIES = 2
_POSE = ("x", "y", "z", "qw", "qx", "qy", "qz")
# Joint angles in rad, finger positions in m, pose of the point between the fingers, and the goal's position in m, which
# mani_skill's own observations give as well where cameras cannot see the goal (PickCube); zeros elsewhere.
_STATE = (
    *(f"joint{number}" for number in range(1, 8)),
    *("finger1", "finger2"),
    *(f"tcp_{name}" for name in _POSE),
    *("goal_x", "goal_y", "goal_z"),
)

FACTS = Facts(
    label="ManiSkill",
    tasks=TASKS,
    groups=("push", "grasp", "place", "insert"),
    cameras=("base_camera", "render_camera"),
    shifts=(),
    state=_STATE,
    object_state=len(_STATE) + 7 * MOST_BODIES,
    # pd_ee_delta_pose: displacement (1 unit = 10 cm) and rotation (1 unit = -0.1 rad, as mani_skill has it) of the
    # point between the fingers in the robot's frame, and the gripper from -1, closed, to 1, open.
    action=("dx", "dy", "dz", "drx", "dry", "drz", "grip"),
    rate=20,
    robot="panda",
    action_range=1.0,
    # The peg and its hole are built anew for each episode, which a scene of many cannot be.
    on_gpu=tuple(task for task in TASKS if task != "PegInsertionSide-v1"),
)

"""How ManiSkill's numbers are meant, for policies of other people."""

from pirl_core.envs.conventions import Conventions, Part

CONVENTIONS = Conventions(
    action=(
        Part("position", 3, "delta_xyz", "displacement in the robot's frame, 1 unit asks 10 cm", (-1, 1)),
        Part("rotation", 3, "euler_xyz", "in the robot's frame, 1 unit asks -0.1 rad", (-1, 1)),
        Part("gripper", 1, "binary_close_negative", "-1 closed, 1 open", (-1, 1)),
    ),
    state="joint angles in rad, finger positions in m, pose of the point between the fingers, the goal's position in m",
)

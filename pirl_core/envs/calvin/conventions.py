"""How CALVIN's numbers are meant, for policies of other people."""

from pirl_core.envs.conventions import Conventions, Part

CONVENTIONS = Conventions(
    action=(
        Part("position", 3, "delta_xyz", "displacement of the hand's target, 1 unit asks 2 cm", (-1, 1)),
        Part("rotation", 3, "euler_xyz", "1 unit asks 0.05 rad", (-1, 1)),
        Part("gripper", 1, "binary_close_negative", "closes below 0, opens above", (-1, 1)),
    ),
    state="the hand's position in m, its Euler angles in rad, the gripper's opening in m",
)

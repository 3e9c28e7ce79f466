"""How MetaWorld's numbers are meant, for policies of other people."""

from pirl_core.envs.conventions import Conventions, Part

CONVENTIONS = Conventions(
    action=(
        Part("position", 3, "delta_xyz", "displacement of the hand, 1 unit asks 1 cm", (-1, 1)),
        Part("gripper", 1, "binary_close_positive", "its effort: -1 opens, 1 closes", (-1, 1)),
    ),
    state="the hand's position in m, the gripper's opening in [0, 1]",
)

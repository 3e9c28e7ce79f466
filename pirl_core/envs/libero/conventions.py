"""How LIBERO's numbers are meant, for policies of other people."""

from pirl_core.envs.conventions import Conventions, Part

CONVENTIONS = Conventions(
    action=(
        Part("position", 3, "delta_xyz", "displacement, 1 unit asks 5 cm", (-1, 1)),
        # The range that vla-eval gives it; the simulator clips to ±1.
        Part("rotation", 3, "axis_angle", "axis times angle, 1 unit asks 0.5 rad", (-3.15, 3.15)),
        Part("gripper", 1, "binary_close_positive", "its motion: -1 opens, 1 closes", (-1, 1)),
    ),
    state="the gripper's position in m, its orientation as axis times angle, the two fingers' positions in m",
)

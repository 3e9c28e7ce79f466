"""How put-on-plate's numbers are meant, for policies of other people; SimplerEnv's are meant alike."""

from pirl_core.envs.conventions import Conventions, Part

CONVENTIONS = Conventions(
    action=(
        Part(
            "position", 3, "delta_xyz", "displacement of the gripper's target in the robot's frame, in m", (-0.1, 0.1)
        ),
        Part("rotation", 3, "euler_xyz", "about x, y and z, in rad", (-0.5, 0.5)),
        Part("gripper", 1, "binary_close_negative", "-1 closed, 1 open", (-1, 1)),
    ),
    state="the arm's joint angles in rad, the two fingers' positions in m",
)

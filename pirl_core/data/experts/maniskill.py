"""mani_skill's own motion-planning solutions (mplib), driven in closed loop through the arm's end-effector control.

A solution asks for joint positions step by step. What is executed and recorded instead is the displacement that takes
the hand from where it is now to where those positions put it, so action noise is corrected as the plan goes on.
"""

import io
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from mani_skill.examples.motionplanning.panda.run import MP_SOLUTIONS
from mani_skill.utils.geometry.rotation_conversions import matrix_to_euler_angles, quaternion_to_matrix

from pirl_core.data.experts import Act
from pirl_core.envs.maniskill import ManiSkillEnv

PACE = {
    "PushCube-v1": 3,
    "PullCube-v1": 3,
    "PickCube-v1": 3,
    "LiftPegUpright-v1": 3,
    "StackCube-v1": 2,
    "PlaceSphere-v1": 1,
    "PegInsertionSide-v1": 1,
}
"""Times faster than mani_skill's: short episodes, as long as the hand still arrives where the plan wants it."""
SETTLING = 10
"""Steps to hold still after a plan's end: some tasks are solved only once the arm rests."""


def show(simulator: ManiSkillEnv, act: Act) -> None:
    """Plan and execute; returns where the plan has ended without success, or there was none."""
    driver = _Driver(simulator.env, act, PACE[simulator.task])
    with redirect_stdout(io.StringIO()):  # solutions print why they found no plan
        MP_SOLUTIONS[simulator.task](driver)
        if driver.target is not None:
            for _ in range(SETTLING):
                driver.step(driver.target)


PATIENCE = 3
"""Most actions for one step of a plan."""


class _Driver:
    """Stands where a solution expects mani_skill's environment under joint control, and passes all else on to it."""

    control_mode = "pd_joint_pos"

    def __init__(self, env: Any, act: Act, pace: int) -> None:
        self.env = env
        # Plans are sampled at this interval and followed at the simulator's.
        self.control_timestep = pace * env.control_timestep
        self.act = act
        self.target: np.ndarray | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    @property
    def unwrapped(self) -> "_Driver":
        return self

    def reset(self, seed: int | None = None) -> None:
        """Nothing: the episode has just begun."""

    def step(self, target: np.ndarray) -> tuple[None, float, bool, bool, dict[str, Any]]:
        """target (8,): joint positions in rad and the gripper's command. Takes more steps where one does not reach."""
        self.target = target
        for _ in range(PATIENCE):
            action = self._toward(target)
            self.act(np.clip(action, -1.0, 1.0))
            if np.abs(action).max() <= 1.0:
                break
        return None, 0.0, False, False, {}

    def _toward(self, target: np.ndarray) -> np.ndarray:
        """The action (7,) that would take the hand there at once, not clipped yet."""
        controller = self.env.agent.controller.controllers["arm"]
        model = controller.kinematics.pmodel
        fingers = self.env.agent.robot.get_qpos()[0, 7:].numpy()
        model.compute_forward_kinematics(np.concatenate([target[:7], fingers]))
        wanted, now = model.get_link_pose(controller.kinematics.end_link_idx), controller.ee_pose_at_base.sp
        turn = torch.as_tensor((wanted * now.inv()).q)
        angles = matrix_to_euler_angles(quaternion_to_matrix(turn), "XYZ").numpy()
        limits = controller.config
        # mani_skill scales rotations by the lower limit, which turns their sign.
        return np.concatenate([(wanted.p - now.p) / limits.pos_upper, angles / limits.rot_lower, target[7:]])

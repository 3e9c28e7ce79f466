"""mani_skill's own motion-planning solutions (mplib), driven in closed loop through the arm's end-effector control.

A solution asks for joint positions step by step. What is executed and recorded instead is the displacement that takes
the hand from where it is now to where those positions put it, so action noise is corrected as the plan goes on. The
peg has a script of its own: mani_skill's plan does not see that the peg slips in the hand on its way into the hole.
"""

import io
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.examples.motionplanning.panda.run import MP_SOLUTIONS
from mani_skill.utils.geometry.rotation_conversions import matrix_to_euler_angles, quaternion_to_matrix

from pirl_core.envs.contract import Act
from pirl_core.envs.maniskill.simulator import ManiSkillEnv

PACE = {
    "PushCube-v1": 3,
    "PullCube-v1": 3,
    "PickCube-v1": 3,
    "LiftPegUpright-v1": 3,
    "StackCube-v1": 2,
    "PlaceSphere-v1": 1,
}
"""Times faster than mani_skill's: short episodes, as long as the hand still arrives where the plan wants it."""
SETTLING = 10
"""Steps to hold still after a plan's end: some tasks are solved only once the arm rests."""
PATIENCE = 3
"""Most actions for one step of a plan."""
OPEN, CLOSED = 1.0, -1.0
SPEED, TURN = 0.3, 0.6
"""Of the hand with the peg: greatest action along an axis, and about one."""
CLOSE, LEVEL = 0.002, 0.02
"""How well a pose is reached, or the peg stands before the hole: m and rad."""


def show(simulator: ManiSkillEnv, act: Act) -> None:
    """Plan and execute; returns where the plan has ended without success, or there was none."""
    if simulator.task == "PegInsertionSide-v1":
        _insert_peg(simulator.env, act)
        return
    driver = _Driver(simulator.env, act, PACE[simulator.task])
    with redirect_stdout(io.StringIO()):  # solutions print why they found no plan
        MP_SOLUTIONS[simulator.task](driver)
        if driver.target is not None:
            for _ in range(SETTLING):
                driver.step(driver.target)


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
            action = np.append(_toward(self.env, self._hand(target)), target[7:])
            self.act(np.clip(action, -1.0, 1.0))
            if np.abs(action).max() <= 1.0:
                break
        return None, 0.0, False, False, {}

    def _hand(self, target: np.ndarray) -> sapien.Pose:
        """Where the joint positions put the hand, in the frame of the arm's base."""
        kinematics = self.env.agent.controller.controllers["arm"].kinematics
        fingers = self.env.agent.robot.get_qpos()[0, 7:].numpy()
        kinematics.pmodel.compute_forward_kinematics(np.concatenate([target[:7], fingers]))
        return kinematics.pmodel.get_link_pose(kinematics.end_link_idx)


def _toward(env: Any, wanted: sapien.Pose) -> np.ndarray:
    """The arm's action (6,) that would take the hand there at once, not clipped yet; in the frame of the arm's base."""
    controller = env.agent.controller.controllers["arm"]
    now, limits = controller.ee_pose_at_base.sp, controller.config
    angles = matrix_to_euler_angles(quaternion_to_matrix(torch.as_tensor((wanted * now.inv()).q)), "XYZ").numpy()
    # mani_skill scales rotations by the lower limit, which turns their sign.
    return np.concatenate([(wanted.p - now.p) / limits.pos_upper, angles / limits.rot_lower])


def _insert_peg(env: Any, act: Act) -> None:
    """Grasp the peg behind its middle, hold it before the hole and push, straightened by where it is at each step."""
    base, goal, half = env.agent.robot.pose.sp, env.goal_pose.sp, env.peg_half_sizes[0, 0].item()

    def tcp() -> sapien.Pose:
        return env.agent.tcp.pose.sp

    def step(wanted: sapien.Pose, gripper: float) -> None:
        way, turn = np.split(_toward(env, base.inv() * wanted), 2)
        way, turn = way * min(1.0, SPEED / np.abs(way).max()), turn * min(1.0, TURN / np.abs(turn).max())
        act(np.concatenate([way, turn, [gripper]]))

    def reach(wanted: sapien.Pose, gripper: float) -> None:
        for _ in range(40):
            apart = tcp().inv() * wanted
            if np.linalg.norm(apart.p) < CLOSE and _angle(apart) < LEVEL:
                return
            step(wanted, gripper)

    lying = env.peg.pose.sp
    along = lying.to_transformation_matrix()[:3, 0]
    across = np.cross((0, 0, 1), along)
    across *= np.sign(across @ tcp().to_transformation_matrix()[:3, 1])
    grasp = env.agent.build_grasp_pose(np.array((0, 0, -1)), across, lying.p - max(0.05, half / 2 + 0.01) * along)
    above = sapien.Pose((0, 0, 0.06))
    reach(above * grasp, OPEN)
    reach(grasp, OPEN)
    for _ in range(3):
        step(grasp, CLOSED)
    reach(above * grasp, CLOSED)
    left, sag = half + 0.015, np.zeros(3)  # of the way into the hole; how far the peg's weight draws the hand down
    for _ in range(150):
        off = (goal * sapien.Pose((-left, 0, 0))).inv() * env.peg.pose.sp
        if np.linalg.norm(off.p[1:]) < CLOSE and abs(off.p[0]) < 2 * CLOSE and _angle(off) < LEVEL:
            left -= 0.01
        sag = np.clip(sag + 0.1 * off.p, -0.01, 0.01)
        step(goal * sapien.Pose((-left, 0, 0) - sag * (0, 1, 1)) * env.peg.pose.sp.inv() * tcp(), CLOSED)


def _angle(turn: sapien.Pose) -> float:
    """Of a rotation, in rad."""
    return float(2 * np.arctan2(np.linalg.norm(turn.q[1:]), abs(turn.q[0])))

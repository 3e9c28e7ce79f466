"""A scripted expert for the WidowX: hover, turn, descend, grasp, lift, carry, lower, release; it tries a grasp again.

It reads the simulator's poses at every step, so that it follows an object that jumps. Metres, radians, world frame.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from pirl_core.envs.contract import Act
from pirl_core.envs.put_on_plate.play import bounds
from pirl_core.envs.put_on_plate.simulator import PutOnPlateEnv
from pirl_core.envs.widowx import pose_numbers, rotation

FASTEST = 0.04
"""Largest displacement of the gripper's target in a step, and half as much near the object."""
FASTEST_TURN = 0.35
ARRIVED = 0.006
HOVER = 0.08
LIFT = 0.10
TABLE = 0.87
LOWEST = (0.018, 0.016, 0.014)
"""How far the point between the fingers stays above the table, at the first, second and third try. The fingertips are
16 mm lower: pressed on the table, its friction would keep them from closing."""
CLOSING_STEPS = 4
OPEN, CLOSED = 1.0, -1.0
ANGLES = np.arange(24) * np.pi / 24


class Hand:
    """The gripper of ManiSkill's ``scene``, led to places by actions of the benchmark."""

    def __init__(self, scene: Any, act: Act) -> None:
        self._scene = scene
        self._act = act
        self.grip = OPEN

    def place(self) -> np.ndarray:
        """The point between the fingers (3,)."""
        return pose_numbers(self._scene.agent.robot.links_map["ee_gripper_link"].pose)[:3]

    def closing(self) -> float:
        """Direction in which the fingers close, about z, in [0, π)."""
        agent = self._scene.agent
        apart = pose_numbers(agent.finger1_link.pose)[:2] - pose_numbers(agent.finger2_link.pose)[:2]
        return float(np.arctan2(apart[1], apart[0]) % np.pi)

    def step(self, goal: np.ndarray | None = None, turn: float = 0.0, fastest: float = FASTEST) -> float:
        """One action towards ``goal``, turned by at most ``turn``; returns the distance that was left."""
        rest = np.zeros(3)
        if goal is not None:
            base = pose_numbers(self._scene.agent.robot.pose)
            target = self._scene.agent.controller.controllers["arm"]._target_pose.raw_pose[0].numpy()[:3]
            rest = rotation(base[3:]).T @ (goal - base[:3]) - target
        distance = float(np.linalg.norm(rest))
        delta = rest * min(1.0, fastest / max(distance, 1e-9))
        yaw = float(np.clip(turn, -FASTEST_TURN, FASTEST_TURN))
        self._act(np.array([*delta, 0.0, 0.0, yaw, self.grip], np.float32))
        return distance

    def go(self, goal: Callable[[], np.ndarray], limit: int, fastest: float = FASTEST) -> None:
        """Until the target and the gripper are there, at most ``limit`` actions."""
        for _ in range(limit):
            place = goal()
            if self.step(place, fastest=fastest) < ARRIVED and np.linalg.norm(self.place() - place) < 2 * ARRIVED:
                return

    def rise(self, height: float, limit: int) -> None:
        above = self.place() + np.array([0, 0, height])
        self.go(lambda: above, limit)


def show(simulator: PutOnPlateEnv, act: Act) -> None:
    """Until the episode's end, or three grasps have failed."""
    thing, plate = simulator.scene.bodies[:2]
    pick_and_place(simulator.scene, thing, plate, bounds(*simulator.play.bodies[0]), act)


def pick_and_place(
    scene: Any, thing: Any, target: Any, box: tuple[np.ndarray, np.ndarray], act: Act, top: float = 0.0
) -> None:
    """box: lowest and highest corner (3,) of the thing's box in its own frame. top: how far above the target's origin
    the thing shall lie."""
    hand = Hand(scene, act)
    for trial in range(len(LOWEST)):
        grasp(hand, thing, box, trial)
        if bool(scene.agent.is_grasping(thing)[0]):
            put_down(hand, thing, target, box, top)
        hand.grip = OPEN
        hand.step()
        hand.rise(HOVER, 6)


def grasp(hand: Hand, thing: Any, box: tuple[np.ndarray, np.ndarray], trial: int) -> None:
    """First at the middle of the box; a bent thing is not there, so then at the origin of its frame."""

    def goal(above: float) -> np.ndarray:
        corners = world_corners(thing, box)
        middle = pose_numbers(thing.pose)[:3] if trial == 1 else (corners.min(0) + corners.max(0)) / 2
        return np.array([*middle[:2], max(middle[2], TABLE + LOWEST[trial]) + above])

    hand.grip = OPEN
    for _ in range(15):
        turn = to_narrow(world_corners(thing, box), hand.closing())
        left = hand.step(goal(HOVER), turn)
        if left < ARRIVED and abs(turn) < 0.1 and np.linalg.norm((hand.place() - goal(HOVER))[:2]) < 2 * ARRIVED:
            break
    hand.go(lambda: goal(0.0), 8, FASTEST / 2)
    hand.grip = CLOSED
    for _ in range(CLOSING_STEPS):
        hand.step()


def put_down(hand: Hand, thing: Any, target: Any, box: tuple[np.ndarray, np.ndarray], top: float) -> None:
    def goal(clearance: float) -> np.ndarray:
        corners = world_corners(thing, box)
        shift = pose_numbers(target.pose)[:2] - pose_numbers(thing.pose)[:2]
        # As high as brings the lowest point of the thing ``clearance`` above the target.
        rise = pose_numbers(target.pose)[2] + top + clearance - corners[:, 2].min()
        place: np.ndarray = hand.place() + np.array([*shift, rise])
        return place

    hand.rise(LIFT, 5)
    hand.go(lambda: goal(0.06), 12)
    hand.go(lambda: goal(0.008), 6, FASTEST / 2)
    hand.grip = OPEN
    for _ in range(4):
        hand.step()


def world_corners(thing: Any, box: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The eight corners (8, 3) of the thing's box where it is now."""
    pose = pose_numbers(thing.pose)
    corners = np.array([[box[i][0], box[j][1], box[k][2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    placed: np.ndarray = pose[:3] + corners @ rotation(pose[3:]).T
    return placed


def to_narrow(corners: np.ndarray, closing: float) -> float:
    """Turn in (-π/2, π/2] after which the fingers close along the narrowest side, or nearly so with less turning."""
    directions = np.stack([np.cos(ANGLES), np.sin(ANGLES)])
    widths = np.ptp(corners[:, :2] @ directions, axis=0)
    turns = (ANGLES - closing + np.pi / 2) % np.pi - np.pi / 2
    return float(turns[np.argmin(widths + 0.01 * np.abs(turns))])

"""Own scripted expert for LIBERO: take a thing from above, put it where the goal says, and then the next thing.

It reads the goals and the collision shapes from the simulator and moves the hand in straight lines: over the thing,
down, close, up, over the target, down, open, up. A bowl is taken at its rim. Drawers, doors, knobs and pushing are
not shown.
"""

import math
from typing import NamedTuple

import mujoco
import numpy as np

from pirl_core.envs.contract import Act
from pirl_core.envs.libero.simulator import LiberoEnv
from pirl_core.errors import UserError

REACH = 0.012
"""A waypoint is passed at this distance in m."""

MOVE_STEPS = 45
"""Steps after which a waypoint is given up and the next one is tried."""

GRIP_STEPS = 12
HAND_WIDTH = 0.07
"""Wider things are taken at the rim."""

ENOUGH_ROOM = 0.04
"""More than this around the outer finger, in m, is no better."""

CONTAINS = "_contain_region"
"""How LIBERO calls the inside of a body."""

OPEN, CLOSE = -1.0, 1.0


class Box(NamedTuple):
    """World-aligned bounds of a body's collision shapes in m, each (3,)."""

    low: np.ndarray
    high: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        middle: np.ndarray = (self.low + self.high) / 2
        return middle


def show(simulator: LiberoEnv, act: Act) -> None:
    """One attempt; raises UserError where a goal is none of putting a thing in or on another."""
    goals = simulator.env.parsed_problem["goal_state"]
    if any(goal[0] not in ("in", "on") for goal in goals):
        raise UserError(f"{simulator.task}: the expert only puts things in or on others; give curate.dataset")
    hand = Hand(simulator, act)
    for _, thing, place in goals:
        _put(simulator, hand, thing, place)


def _put(simulator: LiberoEnv, hand: "Hand", thing: str, place: str) -> None:
    bounds = box_of(simulator, thing)
    grasp, yaw = grasp_of(simulator, thing)
    held = grasp - bounds.centre
    target = place_of(simulator, place)
    hand.turn(yaw)
    clear = max(grasp[2], target.high[2]) + 0.16
    hand.go(_over(grasp, grasp[2] + 0.12), OPEN)
    hand.go(grasp, OPEN, slow=True)
    hand.hold(CLOSE)
    hand.go(_over(grasp, clear), CLOSE)
    above = target.centre + held
    hand.go(_over(above, clear), CLOSE)
    inside = place.endswith(CONTAINS)
    drop = target.high[2] + (0.05 if inside else 0.01 + grasp[2] - bounds.low[2])
    hand.go(_over(above, drop), CLOSE)
    hand.hold(OPEN)
    hand.go(_over(above, clear), OPEN)
    hand.hold(OPEN)


def place_of(simulator: LiberoEnv, name: str) -> Box:
    """Bounds of a body, of one that contains, or of a region that LIBERO marks on one."""
    body = name.removesuffix(CONTAINS)
    if body in simulator.env.obj_body_id:
        return box_of(simulator, body)
    site = simulator.model.site(name).id
    turn = np.abs(simulator.data.site_xmat[site].reshape(3, 3))
    half = turn @ simulator.model.site_size[site]
    centre = simulator.data.site_xpos[site]
    return Box(centre - half, centre + half)


def box_of(simulator: LiberoEnv, name: str) -> Box:
    """Bounds of the body that LIBERO calls ``name``, with all that hangs on it."""
    corners = np.concatenate([_corners(simulator, geom) for geom in _geoms(simulator, name)])
    return Box(corners.min(0), corners.max(0))


def grasp_of(simulator: LiberoEnv, name: str) -> tuple[np.ndarray, float]:
    """Where the fingers close, (3,), and the hand's turn about the vertical: at 0 they close along y."""
    bounds = box_of(simulator, name)
    size = bounds.high - bounds.low
    if min(size[:2]) > HAND_WIDTH:
        return _rim_grasp(simulator, name, bounds)
    point = bounds.centre
    # Not deeper than the fingers are long, nor so low that they touch the floor.
    point[2] = max(bounds.high[2] - 0.04, min(point[2], bounds.low[2] + 0.02))
    return point, 0.0 if size[1] <= HAND_WIDTH else math.pi / 2


def _rim_grasp(simulator: LiberoEnv, name: str, bounds: Box) -> tuple[np.ndarray, float]:
    """The place of the rim with most room for the outer finger, and the least turn of the hand among equals."""
    radius = (bounds.high - bounds.low)[:2].min() / 2
    own = {*_geoms(simulator, name), *_geoms(simulator, None)}
    others = [g for g in range(simulator.model.ngeom) if simulator.model.geom_group[g] == 0 and g not in own]
    centre = _over(bounds.centre, bounds.high[2] - 0.015)

    def room(yaw: float) -> float:
        finger = centre + (radius + 0.04) * np.array([-math.sin(yaw), math.cos(yaw), 0])
        return min([ENOUGH_ROOM, *(_distance(simulator, geom, finger) for geom in others)])

    turns = [sign * math.radians(degrees) for degrees in range(0, 91, 15) for sign in (1, -1)]
    choices = [(yaw, side) for yaw in turns for side in (0.0, math.pi)]
    yaw, side = max(choices, key=lambda choice: room(choice[0] + choice[1]))
    outward = np.array([-math.sin(yaw + side), math.cos(yaw + side), 0])
    return centre + (radius - 0.006) * outward, yaw


def _geoms(simulator: LiberoEnv, name: str | None) -> list[int]:
    """Collision shapes of a body and of all that hangs on it; None: of the robot."""
    model = simulator.model
    root = model.body("robot0_base").id if name is None else simulator.env.obj_body_id[name]
    found = []
    for geom in np.flatnonzero(model.geom_group == 0):
        body = model.geom_bodyid[geom]
        while body not in (0, root):
            body = model.body_parentid[body]
        if body == root:
            found.append(int(geom))
    return found


def _corners(simulator: LiberoEnv, geom: int) -> np.ndarray:
    """(8, 3), of the shape's box, in the world."""
    centre, half = simulator.model.geom_aabb[geom, :3], simulator.model.geom_aabb[geom, 3:]
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
    turn = simulator.data.geom_xmat[geom].reshape(3, 3)
    corners: np.ndarray = (centre + signs * half) @ turn.T + simulator.data.geom_xpos[geom]
    return corners


def _distance(simulator: LiberoEnv, geom: int, point: np.ndarray) -> float:
    """From the point to the shape's box; planes, which have none, are far."""
    model, data = simulator.model, simulator.data
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE:
        return math.inf
    local = data.geom_xmat[geom].reshape(3, 3).T @ (point - data.geom_xpos[geom]) - model.geom_aabb[geom, :3]
    return float(np.linalg.norm(np.maximum(np.abs(local) - model.geom_aabb[geom, 3:], 0)))


class Hand:
    """Moves the gripper by OSC_POSE actions."""

    def __init__(self, simulator: LiberoEnv, act: Act) -> None:
        self._simulator = simulator
        self._act = act
        robot = simulator.env.robots[0]
        self._site = robot.eef_site_id
        self._start = self._wanted = self._rotation()

    def turn(self, yaw: float) -> None:
        """About the vertical from where it was at first, with the next moves."""
        turn = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
        self._wanted = turn @ self._start

    def go(self, point: np.ndarray, grip: float, slow: bool = False) -> None:
        """To ``point`` in a straight line."""
        for _ in range(MOVE_STEPS):
            error = point - self._simulator.data.site_xpos[self._site]
            if np.linalg.norm(error) < REACH and np.linalg.norm(self._error()) < 0.1:
                return
            limit = 0.5 if slow else 1.0
            self._act(np.concatenate([np.clip(4 * error / 0.05, -limit, limit), self._turning(), [grip]]))

    def hold(self, grip: float) -> None:
        for _ in range(GRIP_STEPS):
            self._act(np.concatenate([np.zeros(3), self._turning(), [grip]]))

    def _rotation(self) -> np.ndarray:
        matrix: np.ndarray = self._simulator.data.site_xmat[self._site].reshape(3, 3).copy()
        return matrix

    def _error(self) -> np.ndarray:
        """From the hand's orientation to the wanted one, axis times angle (3,)."""
        quaternion, turn = np.zeros(4), np.zeros(3)
        mujoco.mju_mat2Quat(quaternion, (self._wanted @ self._rotation().T).ravel())
        mujoco.mju_quat2Vel(turn, quaternion, 1.0)
        return turn

    def _turning(self) -> np.ndarray:
        return np.clip(2 * self._error() / 0.5, -1.0, 1.0)


def _over(point: np.ndarray, height: float) -> np.ndarray:
    return np.array([point[0], point[1], height])

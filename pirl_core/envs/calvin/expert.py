"""Scripted experts for CALVIN's door, drawer, lights, and for lifting from and pushing on the table.

Each follows waypoints of the hand, placed where the simulator says that the handle or the block is. Lengths in metres,
angles in radians; the fingers point down and open along x at the yaw of the start, π/2.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pirl_core.envs.calvin.facts import SCRIPTED
from pirl_core.envs.calvin.simulator import CalvinEnv
from pirl_core.envs.contract import Act
from pirl_core.errors import UserError

STEP, TURN = 0.02, 0.05
"""What an action of 1 moves the hand's target by."""
UPRIGHT = (3.09, -0.03)
"""Roll and pitch of the hand at the start."""
OPEN, SHUT = 1.0, -1.0
NEAR = 0.015
PATIENCE = 12
"""Actions that the hand is given to follow its target, which may be out of reach behind a handle."""
OVER = 0.08
"""Height above a block at which the hand travels."""


class Waypoint(NamedTuple):
    """place: of the hand (3,). grip: OPEN or SHUT. wait: actions to stay, for the gripper to close."""

    place: np.ndarray
    grip: float
    yaw: float = np.pi / 2
    wait: int = 0


def show(simulator: CalvinEnv, act: Act) -> None:
    """One subtask. Raises UserError where none is scripted for it."""
    name = simulator.subtask()
    if name not in SCRIPTED:
        raise UserError(f"CALVIN: no expert shows '{name}'; such are {', '.join(SCRIPTED)}")
    plan = next(plan for start, plan in PLANS.items() if name.startswith(start))
    for waypoint in plan(simulator, name):
        _go(simulator, act, waypoint)


def _go(simulator: CalvinEnv, act: Act, waypoint: Waypoint) -> None:
    """Move the hand's target straight to the waypoint, then let the hand follow it."""
    robot = simulator.env.robot
    late = 0
    while True:
        way = waypoint.place - robot.target_pos
        turn = np.array([*UPRIGHT, waypoint.yaw]) - robot.target_orn
        turn = (turn + np.pi) % (2 * np.pi) - np.pi
        near = np.linalg.norm(waypoint.place - simulator.state()[:3]) < NEAR
        if np.abs(way).max() < STEP / 4 and np.abs(turn).max() < TURN:
            late += 1
            if late > (waypoint.wait if near else max(PATIENCE, waypoint.wait)):
                return
        # Both end together, each along a straight line.
        way, turn = way / STEP, turn / TURN
        act(np.array([*way / max(1.0, np.abs(way).max()), *np.clip(turn, -1, 1), waypoint.grip], np.float32))


def _joint(simulator: CalvinEnv, name: str) -> np.ndarray:
    """Where the moving link of a joint of the table is, (3,)."""
    bullet, table = simulator.env.p, simulator.env.scene.fixed_objects[0].uid
    link = next(i for i in range(bullet.getNumJoints(table)) if bullet.getJointInfo(table, i)[1].decode() == name)
    low, high = np.array(bullet.getAABB(table, link))
    middle: np.ndarray = (low + high) / 2
    return middle


def _via(*places: tuple[float, float, float] | np.ndarray, grip: float = SHUT) -> Iterator[Waypoint]:
    for place in places:
        yield Waypoint(np.asarray(place, float), grip)


def _slider(simulator: CalvinEnv, name: str) -> Iterator[Waypoint]:
    """From the far side of its handle, against it."""
    x, _, z = _joint(simulator, "base__slide")
    sign = -1 if name.endswith("left") else 1
    side, y, height = x - 0.07 * sign, 0.0, z - 0.02
    yield from _via((side, -0.12, height + 0.04), (side, y, height), (side + 0.32 * sign, y, height))


def _drawer(simulator: CalvinEnv, name: str) -> Iterator[Waypoint]:
    """Open: fingers between handle and front, pull. Close: push the handle from the front."""
    x, y, _ = _joint(simulator, "base__drawer")
    front = y - 0.1
    if name == "open_drawer":
        behind = front - 0.005
        yield from _via((x, behind, 0.48), (x, behind, 0.37), (x, behind - 0.2, 0.37))
    else:
        before = front - 0.13
        yield from _via((x, before, 0.48), (x, before, 0.37), (x, before + 0.25, 0.37))


def _led(simulator: CalvinEnv, name: str) -> Iterator[Waypoint]:
    x, y, z = _joint(simulator, "base__button")
    yield from _via((x, y, z + 0.07), (x, y, z - 0.02))


def _bulb(simulator: CalvinEnv, name: str) -> Iterator[Waypoint]:
    """The switch is a bar that slides up a wall which leans back: push it back for on, down from above for off."""
    x, y, z = _joint(simulator, "base__switch")
    if "_on_" in name:
        yield from _via((x, y - 0.12, z), (x, y - 0.07, z - 0.03), (x, y + 0.04, z + 0.06))
    else:
        start = z + 0.05
        yield from _via((x, -0.12, start + 0.02), (x, y - 0.02, start), (x, y - 0.02, start - 0.2))


def _block(simulator: CalvinEnv, name: str) -> tuple[np.ndarray, float]:
    """Position (3,), and the yaw nearest to the hand's along which the fingers can close."""
    block = next(block for block in simulator.env.scene.movable_objects if block.name.split("_")[1] in name)
    state = block.get_state()
    return state[:3], (state[5] % np.pi)


def _lift(simulator: CalvinEnv, name: str) -> Iterator[Waypoint]:
    place, yaw = _block(simulator, name)
    above = np.add(place, (0, 0, OVER))
    yield Waypoint(above, OPEN, yaw)
    yield Waypoint(place, OPEN, yaw)
    yield Waypoint(place, SHUT, yaw, wait=6)
    yield Waypoint(np.add(place, (0, 0, 0.15)), SHUT, yaw)


def _push(simulator: CalvinEnv, name: str) -> Iterator[Waypoint]:
    place, _ = _block(simulator, name)
    sign = -1 if name.endswith("left") else 1
    beside = np.subtract(place, (0.065 * sign, 0, 0))
    yield from _via(np.add(beside, (0, 0, OVER)), beside, np.add(place, (0.16 * sign, 0, 0)))


PLANS: dict[str, Callable[[Any, str], Iterator[Waypoint]]] = {
    "move_slider": _slider,
    "open_drawer": _drawer,
    "close_drawer": _drawer,
    "turn_on_led": _led,
    "turn_off_led": _led,
    "turn_on_lightbulb": _bulb,
    "turn_off_lightbulb": _bulb,
    "lift": _lift,
    "push": _push,
}
"""By the beginning of the subtask's name."""

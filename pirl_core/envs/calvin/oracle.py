"""Which subtasks a change of the scene has solved: CALVIN's 34 definitions, on two of ``env.get_info()``'s readings.

Contacts are pybullet's tuples: the third number is the other body, the fifth its link. Lengths in m, angles in degrees.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from pirl_core.envs.calvin.subtasks import COLOURS, SUBTASKS

Info = dict[str, Any]
"""robot_info: uid, contacts. scene_info: fixed_objects (uid, links, contacts), movable_objects (uid, current_pos,
current_orn as x, y, z, w, current_lin_vel, current_ang_vel, contacts), doors (current_state), lights
(logical_state)."""
Rule = Callable[[Info, Info], bool]

TURN, TILT, DRIFT = 60.0, 30.0, 0.1
"""A rotated block turned by more than TURN about z, tilted by less than TILT, and moved by at most DRIFT."""
PUSH, SLIDE, PULL = 0.1, 0.15, 0.12
"""Least travel of a pushed block, of the door, of the drawer."""
LIFT = {"base_link": 0.05, "plank_link": 0.03, "drawer_link": 0.05}
"""Least height above its start of a lifted block, by the link of the table that it lay on."""
STILL = 1.0
"""Greatest velocity, m/s and rad/s, of a block that counts as stacked."""


def solved(name: str, start: Info, now: Info) -> bool:
    """Whether the change from ``start`` to ``now`` is the subtask ``name``."""
    return bool(RULES[name](start, now))


def _block(info: Info, name: str) -> Info:
    block: Info = info["scene_info"]["movable_objects"][name]
    return block


def _bodies(thing: Info) -> set[int]:
    return {contact[2] for contact in thing["contacts"]}


def _links(thing: Info) -> set[tuple[int, int]]:
    return {(contact[2], contact[4]) for contact in thing["contacts"]}


def _robot(info: Info) -> int:
    uid: int = info["robot_info"]["uid"]
    return uid


def _table(info: Info, link: str) -> tuple[int, int]:
    table = info["scene_info"]["fixed_objects"]["table"]
    return table["uid"], table["links"][link]


def _moved(start: Info, now: Info) -> np.ndarray:
    way: np.ndarray = np.subtract(now["current_pos"], start["current_pos"])
    return way


def rotated(name: str, sign: int, start: Info, now: Info) -> bool:
    """Counter-clockwise for sign 1; in the end the block touches more than the robot."""
    first, last = _block(start, name), _block(now, name)
    turn = Rotation.from_quat(last["current_orn"]) * Rotation.from_quat(first["current_orn"]).inv()
    x, y, z = turn.as_euler("xyz", degrees=True)
    return (
        float(np.linalg.norm(_moved(first, last))) <= DRIFT
        and bool(_bodies(last) - {_robot(start)})
        and TURN < sign * z < 180
        and max(abs(x), abs(y)) < TILT
    )


def pushed(name: str, sign: int, start: Info, now: Info) -> bool:
    """Along x, and the block still touches all that it lay on."""
    first, last = _block(start, name), _block(now, name)
    under, over = ({link for link in _links(block) if link[0] != _robot(start)} for block in (first, last))
    return bool(under) and under <= over and sign * _moved(first, last)[0] > PUSH


def moved(joint: str, least: float, start: Info, now: Info) -> bool:
    """By more than ``least``, in its direction."""
    first, last = (info["scene_info"]["doors"][joint]["current_state"] for info in (start, now))
    return bool((last - first) * np.sign(least) > abs(least))


def lifted(name: str, link: str, start: Info, now: Info) -> bool:
    """From a link of the table; in the end nothing but the robot touches the block."""
    first, last = _block(start, name), _block(now, name)
    return (
        _table(start, link) in _links(first)
        and _bodies(last) == {_robot(start)}
        and _moved(first, last)[2] > LIFT[link]
    )


def placed(link: str, start: Info, now: Info) -> bool:
    """What the robot alone held lies on a link of the table, and the robot has let go."""
    held = _bodies(start["robot_info"])
    names = [name for name, block in start["scene_info"]["movable_objects"].items() if {block["uid"]} == held]
    return (
        len(names) == 1
        and not held & _bodies(now["robot_info"])
        and _bodies(_block(start, names[0])) == {_robot(start)}
        and _table(now, link) in _links(_block(now, names[0]))
    )


def dropped(start: Info, now: Info) -> bool:
    """Some block lay on the table and touched nothing else, and now touches the drawer. CALVIN's comment asks that the
    robot shall not touch it in the end; its code does not."""
    return any(
        _links(_block(start, name)) == {_table(start, "base_link")}
        and _table(now, "drawer_link") in _links(_block(now, name))
        for name in start["scene_info"]["movable_objects"]
    )


def switched(light: str, state: int, start: Info, now: Info) -> bool:
    first, last = (info["scene_info"]["lights"][light]["logical_state"] for info in (start, now))
    return bool(first == 1 - state and last == state)


def stacked(start: Info, now: Info) -> bool:
    """Some block touched no block, and now rests on blocks alone."""
    return any(
        not _bodies(_block(start, name)) & _blocks(start) and _rests_on_blocks(_block(now, name), _blocks(start))
        for name in start["scene_info"]["movable_objects"]
    )


def unstacked(start: Info, now: Info) -> bool:
    """Some block rested on blocks alone, and now touches none."""
    return any(
        _rests_on_blocks(_block(start, name), _blocks(start)) and not _bodies(_block(now, name)) & _blocks(start)
        for name in start["scene_info"]["movable_objects"]
    )


def _blocks(info: Info) -> set[int]:
    return {block["uid"] for block in info["scene_info"]["movable_objects"].values()}


def _rests_on_blocks(block: Info, blocks: set[int]) -> bool:
    speed = np.abs([*block["current_lin_vel"], *block["current_ang_vel"]]).max()
    return bool(_bodies(block)) and _bodies(block) <= blocks and bool(speed < STILL)


def _rules() -> dict[str, Rule]:
    rules: dict[str, Rule] = {
        "move_slider_left": partial(moved, "base__slide", SLIDE),
        "move_slider_right": partial(moved, "base__slide", -SLIDE),
        "open_drawer": partial(moved, "base__drawer", PULL),
        "close_drawer": partial(moved, "base__drawer", -PULL),
        "place_in_slider": partial(placed, "plank_link"),
        "place_in_drawer": partial(placed, "drawer_link"),
        "stack_block": stacked,
        "unstack_block": unstacked,
        "push_into_drawer": dropped,
    }
    for light in ("lightbulb", "led"):
        rules |= {f"turn_{word}_{light}": partial(switched, light, state) for word, state in (("on", 1), ("off", 0))}
    for colour in COLOURS:
        for side, sign in (("right", 1), ("left", -1)):
            # Right is along +x; seen from above, a turn to the right is clockwise.
            rules[f"rotate_{colour}_block_{side}"] = partial(rotated, f"block_{colour}", -sign)
            rules[f"push_{colour}_block_{side}"] = partial(pushed, f"block_{colour}", sign)
        for place, link in (("table", "base_link"), ("slider", "plank_link"), ("drawer", "drawer_link")):
            rules[f"lift_{colour}_block_{place}"] = partial(lifted, f"block_{colour}", link)
    return {name: rules[name] for name in SUBTASKS}


RULES = _rules()

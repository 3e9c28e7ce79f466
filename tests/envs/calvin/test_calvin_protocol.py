"""CALVIN's protocol, which needs no simulator: the oracle, the 1,000 sequences and the scenes that they begin in."""

import hashlib
import json
from collections import Counter
from copy import deepcopy
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pirl_core.envs import assets
from pirl_core.envs.calvin.annotations import TRAINING
from pirl_core.envs.calvin.facts import ALONE, FACTS, STARTS
from pirl_core.envs.calvin.oracle import RULES, Info, solved
from pirl_core.envs.calvin.sequences import ROBOT, conditions, draw, fnv0, scene_of, sequences
from pirl_core.envs.calvin.subtasks import SUBTASKS, follow

ROBOT_ID, TABLE, FLOOR = 0, 5, 6
LINKS = {"base_link": -1, "plank_link": 2, "drawer_link": 3}
UID = {"block_red": 2, "block_blue": 3, "block_pink": 4}
PUBLISHED = "840cb992c69ce9b6d59f6020966b6300c15233f8e0b9667b6486c1962424d308"
"""sha256 of json.dumps of calvin_models' get_sequences(1000)."""
ANNOTATIONS = "31454d9a8a09bb1b808ec2c4958597964b184e5fdaebfd48c39fbeb9cc67c9ff"
"""sha256 of calvin_models' new_playtable.yaml as json.dumps, keys and each subtask's sentences sorted."""
SCENES = "1d30ce59ee2efe0966dadadda17ae4ae724de827041aaebcdc26d6dc22d12401"
"""sha256 of calvin_models' get_env_state_for_initial_condition over the 192, rounded to 9 decimals."""


@pytest.fixture(scope="module")
def published() -> Any:
    """calvin_env's own oracle."""
    if assets.missing("calvin"):
        pytest.skip("needs calvin_env: python -m pirl_core.envs.assets fetch calvin")
    clone = assets.root("calvin")
    spec = spec_from_file_location("calvin_tasks", Path(clone, "calvin_env/envs/tasks.py"))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    definitions = yaml.safe_load(Path(clone, "conf/tasks/new_playtable_tasks.yaml").read_text())
    return module.Tasks(definitions["tasks"])


def contact(body: int, link: int = -1) -> tuple[int, ...]:
    return (0, 99, body, -1, link)


def scene(**changes: Any) -> Info:
    """All blocks lie still on the table; the door is right, the drawer closed, the lights are off. changes: of a block
    by its colour, of ``robot`` (contacts), ``slide``, ``drawer``, ``lightbulb`` and ``led``."""
    blocks = {
        name: {
            "uid": uid,
            "current_pos": (0.1 * uid, -0.1, 0.46),
            "current_orn": (0.0, 0.0, 0.0, 1.0),
            "current_lin_vel": (0.0, 0.0, 0.0),
            "current_ang_vel": (0.0, 0.0, 0.0),
            "contacts": [contact(TABLE, LINKS["base_link"])],
        }
        for name, uid in UID.items()
    }
    for colour in ("red", "blue", "pink"):
        blocks[f"block_{colour}"] |= changes.get(colour, {})
    return {
        "robot_info": {"uid": ROBOT_ID, "contacts": changes.get("robot", [])},
        "scene_info": {
            "fixed_objects": {"table": {"uid": TABLE, "links": LINKS, "contacts": []}},
            "movable_objects": blocks,
            "doors": {
                "base__slide": {"current_state": changes.get("slide", 0.0)},
                "base__drawer": {"current_state": changes.get("drawer", 0.0)},
            },
            "lights": {name: {"logical_state": changes.get(name, 0)} for name in ("lightbulb", "led")},
        },
    }


def on(link: str) -> dict[str, Any]:
    return {"contacts": [contact(TABLE, LINKS[link])]}


def turned(degrees: float, **more: Any) -> dict[str, Any]:
    half = np.deg2rad(degrees) / 2
    return {"current_orn": (0.0, 0.0, np.sin(half), np.cos(half)), **more}


def at(x: float, y: float = -0.1, z: float = 0.46, *bodies: int) -> dict[str, Any]:
    return {"current_pos": (x, y, z)} | ({"contacts": [contact(body) for body in bodies]} if bodies else {})


HELD = {"red": at(0.2, -0.1, 0.6, ROBOT_ID), "robot": [contact(2)]}
CASES: dict[str, tuple[Info, Info, set[str]]] = {
    "nothing": (scene(), scene(), set()),
    "turn left": (scene(), scene(red=turned(70)), {"rotate_red_block_left"}),
    "turn right": (scene(), scene(pink=turned(-70)), {"rotate_pink_block_right"}),
    "turn too little": (scene(), scene(red=turned(59)), set()),
    "turn and drift": (scene(), scene(red=turned(70) | at(0.2, 0.01)), set()),
    "turn in the hand": (scene(), scene(red=turned(70, contacts=[contact(ROBOT_ID)])), set()),
    "tip over": (scene(), scene(red={"current_orn": (np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5))}), set()),
    "push right": (scene(), scene(blue=at(0.41)), {"push_blue_block_right"}),
    "push left": (scene(), scene(blue=at(0.19)), {"push_blue_block_left"}),
    "push too little": (scene(), scene(blue=at(0.39)), set()),
    "push off the table": (scene(), scene(blue=at(0.41, -0.1, 0.0, FLOOR)), set()),
    "push with the hand on it": (scene(), scene(blue=at(0.41, -0.1, 0.46, TABLE, ROBOT_ID)), {"push_blue_block_right"}),
    "door left": (scene(), scene(slide=0.16), {"move_slider_left"}),
    "door too little": (scene(), scene(slide=0.14), set()),
    "door right": (scene(slide=0.28), scene(slide=0.1), {"move_slider_right"}),
    "drawer open": (scene(), scene(drawer=0.13), {"open_drawer"}),
    "drawer shut": (scene(drawer=0.22), scene(drawer=0.05), {"close_drawer"}),
    "lift": (scene(), scene(red=at(0.2, -0.1, 0.52, ROBOT_ID)), {"lift_red_block_table"}),
    "lift too little": (scene(), scene(red=at(0.2, -0.1, 0.5, ROBOT_ID)), set()),
    "lift on another block": (scene(), scene(red=at(0.2, -0.1, 0.52, ROBOT_ID, 3)), set()),
    "lift from slider": (
        scene(red=on("plank_link")),
        scene(red=at(0.2, -0.1, 0.495, ROBOT_ID)),
        {"lift_red_block_slider"},
    ),
    "lift from drawer": (
        scene(red=on("drawer_link")),
        scene(red=at(0.2, -0.1, 0.52, ROBOT_ID)),
        {"lift_red_block_drawer"},
    ),
    "place in slider": (scene(**HELD), scene(red=on("plank_link")), {"place_in_slider"}),
    "place in drawer": (scene(**HELD), scene(red=on("drawer_link")), {"place_in_drawer"}),
    "place and hold on": (scene(**HELD), scene(red=on("drawer_link"), robot=[contact(2)]), set()),
    "stack": (scene(**HELD), scene(red=at(0.3, -0.1, 0.52, 3)), {"stack_block"}),
    "stack that moves": (
        scene(**HELD),
        scene(red=at(0.3, -0.1, 0.52, 3) | {"current_lin_vel": (0.0, 0.0, -1.5)}),
        set(),
    ),
    "unstack": (scene(red=at(0.3, -0.1, 0.52, 3)), scene(red=at(0.2)), {"unstack_block"}),
    "lightbulb on": (scene(), scene(lightbulb=1), {"turn_on_lightbulb"}),
    "lightbulb off": (scene(lightbulb=1), scene(), {"turn_off_lightbulb"}),
    "led on": (scene(), scene(led=1), {"turn_on_led"}),
    "led off": (scene(led=1), scene(), {"turn_off_led"}),
    "push into drawer": (scene(), scene(red=on("drawer_link")), {"push_into_drawer"}),
}


@pytest.mark.parametrize("case", CASES)
def test_oracle_names_what_was_solved(case: str) -> None:
    start, now, names = CASES[case]
    before = deepcopy((start, now))
    assert {name for name in SUBTASKS if solved(name, start, now)} == names
    assert (start, now) == before


def test_every_kind_of_subtask_has_a_case() -> None:
    covered = set().union(*(names for _, _, names in CASES.values()))
    assert {name for name in SUBTASKS if not name.startswith(("rotate", "push_", "lift"))} <= covered
    assert list(RULES) == list(SUBTASKS) and len(SUBTASKS) == 34


number = st.sampled_from([-0.3, -0.15, -0.12, -0.1, 0.0, 0.02, 0.04, 0.06, 0.11, 0.13, 0.2, 0.46])
body = st.sampled_from(
    [contact(ROBOT_ID, 9), contact(FLOOR), *(contact(TABLE, link) for link in LINKS.values())]
    + [contact(uid) for uid in UID.values()]
)
block = st.fixed_dictionaries(
    {
        "current_pos": st.tuples(number, number, number),
        "current_orn": st.sampled_from(
            [turned(angle)["current_orn"] for angle in (0, 50, 70, -70, 170)] + [(np.sqrt(0.5), 0, 0, np.sqrt(0.5))]
        ),
        "current_lin_vel": st.tuples(*[st.sampled_from([0.0, 0.9, -1.2])] * 3),
        "contacts": st.lists(body, max_size=3),
    }
)
reading = st.builds(
    lambda red, blue, pink, robot, slide, drawer, bulb, led: scene(
        red=red, blue=blue, pink=pink, robot=robot, slide=slide, drawer=drawer, lightbulb=bulb, led=led
    ),
    block, block, block, st.lists(body, max_size=2), number, number, st.integers(0, 1), st.integers(0, 1),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(reading, reading)
def test_oracle_equals_calvin_envs(published: Any, start: Info, now: Info) -> None:
    assert {name for name in SUBTASKS if solved(name, start, now)} == published.get_task_info(start, now)


def test_hash_is_fnv0() -> None:
    assert fnv0("hello world") == 2805756500


def test_sequences_are_the_published_ones() -> None:
    listed = [[sequence.condition, list(sequence.subtasks)] for sequence in sequences()]
    assert hashlib.sha256(json.dumps(listed).encode()).hexdigest() == PUBLISHED
    for sequence in sequences():
        condition = sequence.condition
        for name in sequence.subtasks:
            after = follow(condition, name)
            assert after is not None
            condition = after


def test_the_drawing_of_few_begins_with_each_condition() -> None:
    drawn = draw(20)
    assert sorted(start for start, _ in drawn) == list(range(20))
    assert drawn == draw(20)


@pytest.mark.slow
def test_the_list_is_the_drawing() -> None:
    names, starts = list(SUBTASKS), conditions()
    assert [(starts[i], tuple(names[j] for j in row)) for i, row in draw(1000)] == list(sequences())


def test_conditions_and_scenes() -> None:
    found = conditions()
    assert len(found) == 192
    assert all(1 <= Counter(condition.values())["table"] <= 2 for condition in found)
    for condition in found:
        numbers = scene_of(condition)
        assert numbers.shape == (24,) and ROBOT.shape == (15,)
        assert (numbers[0] > 0.15) == (condition["slider"] == "left")
        assert (numbers[1] > 0.12) == (condition["drawer"] == "open")
        positions = numbers[6:].reshape(3, 6)
        apart = [np.linalg.norm(positions[i, :2] - positions[j, :2]) for i, j in ((0, 1), (0, 2), (1, 2))]
        assert min(apart) > 0.17
        for colour, position in zip(("red", "blue", "pink"), positions, strict=True):
            assert (position[1] < 0) == (condition[f"{colour}_block"] == "table")
    assert np.array_equal(scene_of(found[7]), scene_of(dict(found[7])))


def test_scenes_are_the_published_ones() -> None:
    scenes = np.round([scene_of(condition) for condition in conditions()], 9).astype("<f8")
    assert hashlib.sha256(scenes.tobytes()).hexdigest() == SCENES


def test_tasks_begin_where_they_can() -> None:
    assert len(ALONE) == 27 and len(FACTS.tasks) == 4 * 28
    assert all(follow(condition, name) for name in ALONE for condition in STARTS[name])
    assert len({subtask.sentence for subtask in SUBTASKS.values()}) == 34
    assert {task.group for task in FACTS.tasks.values()} == set(FACTS.groups)


def test_training_sentences_are_the_published_ones() -> None:
    """Those of all subtasks, each of one alone, and none of them one that policies are evaluated with."""
    published = json.dumps({name: sorted(texts) for name, texts in TRAINING.items()}, sort_keys=True)
    assert hashlib.sha256(published.encode()).hexdigest() == ANNOTATIONS
    assert set(TRAINING) == set(SUBTASKS)
    texts = [text for texts in TRAINING.values() for text in texts]
    assert len(texts) == len(set(texts)) == 389
    assert all(text == text.strip().lower() for text in texts)
    assert set(texts).isdisjoint(sentence.lower() for sentence in FACTS.sentences())

"""MetaWorld's published dataset, ``lerobot/metaworld_mt50``: its names, its two tasks of one sentence, its picture."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pirl_core.data.curate import dataset_size
from pirl_core.data.lerobot import read_dataset
from pirl_core.envs.contract import Settings
from pirl_core.envs.metaworld.facts import FACTS, TASKS
from pirl_core.envs.metaworld.published import ALIASES
from pirl_core.envs.metaworld.simulator import MetaWorldEnv
from pirl_core.errors import UserError
from pirl_core.params.sections import Env
from pirl_core.types import Episode
from tests.data.test_recorded import CURATE, make, write_recorded

ENV = Env(
    benchmark="metaworld", tasks=["push-v3", "reach-v3", "push-back-v3"], shift="none", episode_steps=9,
    cameras=["corner2"], image_size=48, fast_render=True, object_state=False, keys={}, frame_stack=1, sim_backend="cpu",
)  # fmt: skip
NUMBERS = {"push-back-v3": 37, "push-v3": 38, "reach-v3": 40}


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Of five episodes with the dataset's columns and sentences, of three tasks in turn."""
    monkeypatch.chdir(tmp_path)
    tables = write_recorded(Path("recorded"), ENV, 5, "v2.0", corner2="observation.image")
    listed = Path("recorded/meta/episodes.jsonl")
    text = listed.read_text()
    for task in ENV.tasks:
        text = text.replace(TASKS[task].sentences[0], ALIASES[task])
    listed.write_text(text)
    info = Path("recorded/meta/info.json")
    content = json.loads(info.read_text())
    content["features"]["task_id"] = {"dtype": "int16", "shape": [1]}
    info.write_text(json.dumps(content))
    for number, table in enumerate(tables):
        tables[number] = numbered(table, number, NUMBERS[ENV.tasks[number % 3]])
    return tables


def numbered(table: Any, episode: int, task: int) -> Any:
    """The episode's file, with that ``task_id``."""
    path = Path(f"recorded/data/chunk-{episode // 2:03d}/episode_{episode:06d}.parquet")
    table = table.append_column("task_id", pa.array([task] * len(table), pa.int16()))
    pq.write_table(table, path)
    return table


def test_frames_are_as_recorded_and_told_in_our_words(tables: list[Any]) -> None:
    """Push and push-back too, which the dataset calls alike; actions as the simulator takes them."""
    frames = read_dataset(make(env=ENV), ENV.cameras, object_state=False)
    for number, table in enumerate(tables):
        mine = frames.episode == number
        assert np.array_equal(frames.state[mine], np.array(table["observation.state"].to_pylist(), np.float32))
        assert np.array_equal(frames.actions[mine], np.array(table["action"].to_pylist(), np.float32))
        told = {frames.tasks[index] for index in frames.task_index[mine]}
        assert told == {TASKS[ENV.tasks[number % 3]].sentences[0]}
    noted = json.loads(Path("made/meta/curation.json").read_text())
    assert [origin["task"] for origin in noted["episodes"]] == [ENV.tasks[number % 3] for number in range(5)]
    assert noted["shared_sentences"] == []
    assert dataset_size(ENV.model_copy(update={"tasks": ["push-back-v3"]}), CURATE) == 1


@pytest.mark.usefixtures("tables")
def test_without_the_column_the_first_task_has_both_and_it_is_said() -> None:
    info = Path("recorded/meta/info.json")
    content = json.loads(info.read_text())
    del content["features"]["task_id"]
    info.write_text(json.dumps(content))
    make(env=ENV)
    noted = json.loads(Path("made/meta/curation.json").read_text())
    assert Counter(origin["task"] for origin in noted["episodes"]) == {"push-v3": 3, "reach-v3": 2}
    assert [group["tasks"] for group in noted["shared_sentences"]] == [["push-v3", "push-back-v3"]]


def test_another_number_is_one_line(tables: list[Any]) -> None:
    numbered(tables[2].drop_columns(["task_id"]), 2, 40)
    with pytest.raises(UserError, match=r"episode_000002.parquet cannot be used .'task_id' is \[40\]; 37 is push-back"):
        dataset_size(ENV, CURATE)


def test_every_task_has_the_datasets_name_and_only_those_of_a_number_share_one() -> None:
    shared = Counter(alias for task in TASKS.values() for alias in task.aliases)
    assert len(shared) == 49 and sum(shared.values()) == 50
    assert {name for name, task in TASKS.items() if shared[task.aliases[0]] > 1} == set(FACTS.numbered.values())


def test_the_policy_sees_what_the_dataset_shows() -> None:
    """LeRobot turns the upright picture of camera 2, in its pose, about both axes: there our picture has the puck."""
    size, task = 120, "push-v3"
    env = MetaWorldEnv(task, Settings("metaworld", 9, ["corner2"], size, True, False, "cpu"))
    for seed in range(3):
        env.reset(Episode(task, seed))
        assert env.model.cam_pos[2].tolist() == [0.75, 0.075, 0.7]
        puck = env.full_observation()[4:7]
        right, up, back = env.data.cam_xmat[2].reshape(3, 3).T @ (puck - env.data.cam_xpos[2])
        scale = size / 2 / np.tan(np.deg2rad(env.model.cam_fovy[2]) / 2) / -back
        upright = np.round([size / 2 - 0.5 - scale * up, size / 2 - 0.5 + scale * right]).astype(int)
        turned = size - 1 - upright
        red, green, blue = env.images()[0, turned[0], turned[1]].astype(int)
        assert red > 2 * max(green, blue), (red, green, blue)
        assert np.array_equal(env.state(), env.full_observation()[:4].astype(np.float32))

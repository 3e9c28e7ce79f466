"""Datasets that others recorded: the hub's layout of LIBERO, and LeRobot's own names."""

import io
import json
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from PIL import Image

from pirl_core.data.curate import dataset_size, make_dataset
from pirl_core.data.lerobot import read_dataset
from pirl_core.data.recorded.index import ROWS
from pirl_core.errors import UserError
from pirl_core.facts import facts_of
from pirl_core.params.sections import Curate, Env
from pirl_core.training.resume import Checkpoints
from pirl_core.training.track import Tracker
from tests.checkpoints.fake_hub import REPO, Hub, serve

LIBERO = Env(
    benchmark="libero", tasks=["libero_object_0", "libero_10_3"], shift="none", episode_steps=9,
    cameras=["eye_in_hand", "agentview"], image_size=48, fast_render=True, object_state=False, keys={},
    frame_stack=1,
    sim_backend="cpu",
)  # fmt: skip
CURATE = Curate(
    dataset="recorded", dataset_revision=None, columns={}, expert_return=None, expert_steps=1, seed=0,
    episodes_per_task=9, still_frames=0,
    action_noise=0.0, max_attempts_per_episode=1, keep_per_task=None, keep_episodes=None, real=None,
)  # fmt: skip

NAMES = {what: name for what, (name,) in facts_of("libero").columns[0].items()}


def write_recorded(folder: Path, env: Env, episodes: int, version: str = "v2.1", **names: str) -> list[Any]:
    """A LeRobot v2 dataset with so many random episodes, of ``env.tasks`` in turn; gives its tables.

    names: of the columns of cameras, state, action and environment, where they are not LeRobot's.
    """
    facts, rng = facts_of(env.benchmark), np.random.default_rng(7)
    lengths = {"state": len(facts.state), "action": len(facts.action), "environment": facts.object_state}
    usual = {camera: f"observation.images.{camera}" for camera in env.cameras}
    usual |= {"state": "observation.state", "action": "action", "environment": "observation.environment_state"} | names
    features: dict[str, Any] = {name: {"dtype": "int64", "shape": [1]} for name in ROWS}
    features |= {
        usual[what]: {"dtype": "float32", "shape": [lengths[what]]}
        if what in lengths
        else {"dtype": "image", "shape": [48, 48, 3]}
        for what in usual
    }
    (folder / "meta").mkdir(parents=True)
    counts = [3 + number for number in range(episodes)]
    (folder / "meta/info.json").write_text(
        json.dumps({
            "codebase_version": version, "features": features, "chunks_size": 2, "fps": 10,
            "total_episodes": episodes, "total_frames": sum(counts),
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        })
    )  # fmt: skip
    sentences = [facts.task(env.tasks[number % len(env.tasks)]).sentences[0] for number in range(episodes)]
    rows = [
        {"episode_index": number, "tasks": [text], "length": counts[number]} for number, text in enumerate(sentences)
    ]
    (folder / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = []
    for number, count in enumerate(counts):
        columns: dict[str, Any] = row_columns(number, count, 10) | {
            usual[what]: list(rng.uniform(-1, 1, (count, length)).astype(np.float32))
            for what, length in lengths.items()
        }
        for camera in env.cameras:
            pictures = [Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)) for _ in range(count)]
            columns[usual[camera]] = [{"bytes": png(picture), "path": None} for picture in pictures]
        path = folder / f"data/chunk-{number // 2:03d}/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        tables.append(pa.table(columns))
        pq.write_table(tables[-1], path)
    return tables


def row_columns(number: int, count: int, rate: int) -> dict[str, Any]:
    """By which LeRobot knows the frames of an episode."""
    return {
        "frame_index": np.arange(count),
        "episode_index": np.full(count, number),
        "timestamp": (np.arange(count) / rate).astype(np.float32),
    }


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Of five episodes with the names of ``physical-intelligence/libero``, of two tasks in turn."""
    monkeypatch.chdir(tmp_path)
    return write_recorded(Path("recorded"), LIBERO, 5, "v2.0", **NAMES)


def make(curate: Curate = CURATE, env: Env = LIBERO) -> Path:
    folder = Path("made")
    with Tracker("curate", "test", 1, None) as tracker:
        make_dataset(env, curate, folder, Checkpoints(Path("store"), 0, kept=None), tracker)
    return folder


def test_frames_are_as_recorded(tables: list[Any]) -> None:
    frames = read_dataset(make(), LIBERO.cameras, object_state=False)
    sentences = [facts_of("libero").task(task).sentences[0] for task in LIBERO.tasks]
    for number, table in enumerate(tables):
        mine = frames.episode == number
        assert np.array_equal(frames.state[mine], np.array(table["state"].to_pylist(), np.float32))
        assert np.array_equal(frames.actions[mine], np.array(table["actions"].to_pylist(), np.float32))
        for column, camera in enumerate(LIBERO.cameras):
            rows = table[NAMES[camera]].to_pylist()
            for row, picture in zip(rows, frames.images[mine, column], strict=True):
                assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["bytes"]))), picture)
        assert {frames.tasks[index] for index in frames.task_index[mine]} == {sentences[number % 2]}
    noted = json.loads(Path("made/meta/curation.json").read_text())
    assert (noted["dataset"], noted["dataset_commit"], noted["episodes_kept"]) == ("recorded", None, 5)
    assert [origin["task"] for origin in noted["episodes"]] == [LIBERO.tasks[number % 2] for number in range(5)]


def test_subsets_and_sizes(tables: list[Any]) -> None:
    """By number, by task, and only of the tasks that are learnt; pictures come in the size that is asked for."""
    chosen = CURATE.model_copy(update={"keep_episodes": [4, 1]})
    frames = read_dataset(make(chosen), LIBERO.cameras, object_state=False)
    assert np.bincount(frames.episode).tolist() == [len(tables[1]), len(tables[4])]
    assert dataset_size(LIBERO, CURATE.model_copy(update={"keep_per_task": 1})) == 2
    assert dataset_size(LIBERO, CURATE.model_copy(update={"episodes_per_task": 2})) == 4
    one = LIBERO.model_copy(update={"tasks": ["libero_10_3"], "image_size": 32})
    assert dataset_size(one, CURATE) == 2
    assert read_dataset(make(env=one), one.cameras, object_state=False).images.shape[1:] == (2, 32, 32, 3)
    with pytest.raises(UserError, match=r"episode 0 shows 'pick up the alphabet soup.*none of env.tasks"):
        dataset_size(one, CURATE.model_copy(update={"keep_episodes": [0, 1]}))
    with pytest.raises(UserError, match="no episode 5"):
        dataset_size(LIBERO, CURATE.model_copy(update={"keep_episodes": [5]}))


def info(**changes: Any) -> None:
    path = Path("recorded/meta/info.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def feature(name: str, **changes: Any) -> None:
    features = json.loads(Path("recorded/meta/info.json").read_text())["features"]
    features[name] |= changes
    info(features=features)


LAST = "recorded/data/chunk-002/episode_000004.parquet"
FAULTS: dict[str, tuple[Any, str]] = {
    "version": (lambda: info(codebase_version="v1.6"), "LeRobot v1.6; give one of v2.0, v2.1 or v3.0"),
    "column": (lambda: info(features={}), "has no column 'observation.images.eye_in_hand'|no column 'wrist_image'"),
    "picture": (
        lambda: feature("image", dtype="float32"),
        "'image' of recorded is float32; images or videos are needed",
    ),
    "numbers": (lambda: feature("actions", shape=[8]), r"'actions' of recorded is of shape \[8\]; LIBERO has 7"),
    "lengths": (lambda: pq.write_table(pq.read_table(LAST).slice(0, 0), LAST), "episode_000004.parquet cannot be used"),
    "cut": (lambda: Path(LAST).write_bytes(Path(LAST).read_bytes()[:99]), "episode_000004.parquet: damaged parquet"),
    "missing": (lambda: Path(LAST).unlink(), "episode_000004.parquet: no such file"),
    "description": (lambda: Path("recorded/meta/info.json").write_text("{"), "info.json: no valid JSON"),
    "columns": (lambda: info(features=["state"]), "info.json cannot be used .'features' does not describe"),
    "pattern": (lambda: info(data_path="data/{episode}.parquet"), "info.json cannot be used .data_path"),
    "chunks": (lambda: info(chunks_size="many"), "info.json cannot be used .chunks_size is 'many'"),
    "numbering": (
        lambda: Path("recorded/meta/episodes.jsonl").write_text('{"episode_index": -1, "tasks": ["x"], "length": 1}'),
        "episodes.jsonl cannot be used .entry 1",
    ),
    "sentences": (
        lambda: Path("recorded/meta/episodes.jsonl").write_text(
            Path("recorded/meta/episodes.jsonl").read_text().replace("alphabet", "numeral")
        ),
        "no episode of recorded shows 'pick up the alphabet soup",
    ),
}


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_leaves_nothing(fault: str) -> None:
    spoil, said = FAULTS[fault]
    spoil()
    with pytest.raises(UserError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert not Path("made").exists()


def test_simulators_states_come_along_where_they_are_recorded(tmp_path: Path) -> None:
    env = Env(
        benchmark="metaworld", tasks=["reach-v3"], shift="none", episode_steps=9, cameras=[], image_size=32,
        fast_render=True, object_state=True, keys={}, frame_stack=1, sim_backend="cpu",
    )  # fmt: skip
    with chdir(tmp_path):
        [table] = write_recorded(Path("recorded"), env, 1)
        frames = read_dataset(make(env=env), [], object_state=True)
        own = len(facts_of("metaworld").state)
        whole = np.array(table["observation.environment_state"].to_pylist(), np.float32)
        assert np.array_equal(frames.state[:, own:], whole[:, own:])


@contextmanager
def published(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """``recorded`` on a hub, as REPO; gives the commit."""
    files = [path for path in Path("recorded").rglob("*") if path.is_file()]
    hub = Hub()
    commit = hub.commit({path.relative_to("recorded").as_posix(): path.read_bytes() for path in files})
    with serve(hub):
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        yield commit


def fetched(cache: Path) -> list[str]:
    """Files of the dataset that are in the cache, but for its description."""
    [snapshot] = cache.rglob("snapshots/*")
    paths = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
    return sorted(path for path in paths if not path.startswith("meta/"))


def test_of_the_hub_only_what_is_kept_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_recorded(Path("recorded"), LIBERO, 5, "v2.0", **NAMES)
    cache = tmp_path / "cache"
    with published(cache, monkeypatch) as commit:
        folder = make(CURATE.model_copy(update={"dataset": REPO, "keep_episodes": [1, 4]}))
    frames = read_dataset(folder, LIBERO.cameras, object_state=False)
    make(CURATE.model_copy(update={"keep_episodes": [1, 4]}))
    assert np.array_equal(frames.images, read_dataset(folder, LIBERO.cameras, object_state=False).images)
    assert fetched(cache) == ["data/chunk-000/episode_000001.parquet", "data/chunk-002/episode_000004.parquet"]
    assert commit in {path.name for path in cache.rglob("snapshots/*")}


def test_the_hub_is_told_apart_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="no whole copy in the cache, and the hub cannot be reached"):
        dataset_size(LIBERO, CURATE.model_copy(update={"dataset": "someone/libero"}))
    with pytest.raises(UserError, match="no folder, and no hub id"):
        dataset_size(LIBERO, CURATE)
    Path("recorded").mkdir()
    with pytest.raises(UserError, match="dataset_revision = 'main' needs a hub id"):
        dataset_size(LIBERO, CURATE.model_copy(update={"dataset_revision": "main"}))

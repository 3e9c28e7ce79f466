"""LeRobot files, few-shot selection and seeds: properties against brute force, and what bad data says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pirl_core.data.fewshot import select_episodes
from pirl_core.data.lerobot import (
    DemoEpisode,
    Frames,
    action_chunks,
    dataset_stats,
    pictures,
    read_dataset,
    write_dataset,
)
from pirl_core.envs.metaworld.facts import FACTS
from pirl_core.errors import UserError

CAMERAS = ["corner2", "gripperPOV"]
DATA = "data/chunk-000/file-000.parquet"


def make_episode(rng: np.random.Generator, task: int, length: int, cameras: int = 2, size: int = 32) -> DemoEpisode:
    return DemoEpisode(
        task=f"task-{task}",
        instruction=f"do thing {task}",
        seed=int(rng.integers(2**30)),
        failures=int(rng.integers(3)),
        images=rng.integers(0, 256, (length, cameras, size, size, 3), dtype=np.uint8),
        state=rng.normal(size=(length, 39)).astype(np.float32),
        actions=rng.uniform(-1, 1, (length, 4)).astype(np.float32),
        rewards=rng.random(length).astype(np.float32),
        success=np.arange(length) == length - 1,
    )


@pytest.fixture(scope="module")
def episodes() -> list[DemoEpisode]:
    rng = np.random.default_rng(0)
    return [make_episode(rng, task, length) for task, length in ((1, 7), (0, 1), (1, 12), (0, 5))]


@pytest.fixture(scope="module")
def dataset(episodes: list[DemoEpisode], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder, episodes, CAMERAS, FACTS)
    return folder


def test_round_trip_is_bit_equal(dataset: Path, episodes: list[DemoEpisode]) -> None:
    frames = read_dataset(dataset, CAMERAS, object_state=True)
    assert np.array_equal(frames.images, np.concatenate([e.images for e in episodes]))
    assert np.array_equal(frames.state, np.concatenate([e.state for e in episodes]))
    assert np.array_equal(frames.actions, np.concatenate([e.actions for e in episodes]))
    assert frames.instructions == [e.instruction for e in episodes for _ in e.actions]
    assert np.array_equal(frames.episode, np.repeat(np.arange(4), [7, 1, 12, 5]))
    one = read_dataset(dataset, ["gripperPOV"], object_state=False)
    assert np.array_equal(one.images[:, 0], frames.images[:, 1])
    assert np.array_equal(one.state, frames.state[:, :4])


def test_of_a_large_dataset_little_is_held(
    dataset: Path, episodes: list[DemoEpisode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any index of numpy gives the same pictures, whether they are kept or decoded each time."""
    whole = np.concatenate([e.images for e in episodes])
    for room in (0, 3 * whole[0].nbytes, 2**30):
        monkeypatch.setattr(pictures, "HELD_BYTES", room)
        images = read_dataset(dataset, CAMERAS, object_state=True).images
        assert isinstance(images, pictures.Pictures) and images.shape == whole.shape
        for key in (3, [2, 2, 24], slice(1, 20, 5), whole[:, 0, 0, 0, 0] > 100, (slice(4), 1), np.array([[0, 1]])):
            assert np.array_equal(images[key], whole[key])
        assert np.array_equal(np.asarray(images), whole)
        assert sum(frame.nbytes for frame in images._held.values()) == min(room, whole.nbytes)


def test_a_picture_spoilt_since_is_told(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "copy")
    images = read_dataset(tmp_path / "copy", CAMERAS, object_state=True).images
    (tmp_path / "copy" / DATA).write_bytes((dataset / DATA).read_bytes()[:9000])
    with pytest.raises(UserError, match=r"file-000.parquet: picture 0 of frame 24: no readable picture.*again$"):
        images[24]


def test_without_cameras(tmp_path: Path) -> None:
    write_dataset(tmp_path, [make_episode(np.random.default_rng(0), 0, 3, cameras=0)], [], FACTS)
    assert read_dataset(tmp_path, [], object_state=True).images.shape == (3, 0, 0, 0, 3)


def test_many_files_read_as_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [make_episode(rng, 0, 60, size=64) for _ in range(5)]
    write_dataset(tmp_path, episodes, CAMERAS, FACTS, file_mb=2)
    assert len(list(tmp_path.glob("data/*/*.parquet"))) == 5
    places = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet")["data/file_index"].to_pylist()
    assert places == [0, 1, 2, 3, 4]
    frames = read_dataset(tmp_path, CAMERAS, object_state=True)
    assert np.array_equal(frames.images, np.concatenate([e.images for e in episodes]))


def test_same_episodes_give_same_bytes(dataset: Path, episodes: list[DemoEpisode], tmp_path: Path) -> None:
    write_dataset(tmp_path, iter(episodes), CAMERAS, FACTS)
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 5
    assert all((tmp_path / name).read_bytes() == (dataset / name).read_bytes() for name in files)


def test_stats_match_numpy(dataset: Path, episodes: list[DemoEpisode]) -> None:
    stats = dataset_stats(dataset)
    pixels = np.concatenate([e.images[:, 0] for e in episodes]).reshape(-1, 3) / 255.0
    actions = np.concatenate([e.actions for e in episodes]).astype(np.float64)
    cases: list[tuple[str, np.ndarray, tuple[int, ...], Literal["linear", "inverted_cdf"]]] = [
        ("observation.images.corner2", pixels, (3, 1, 1), "inverted_cdf"),
        ("action", actions, (4,), "linear"),
    ]
    for name, values, shape, method in cases:
        found = stats[name]
        assert found["count"].tolist() == [25]
        expected = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
        for q in (1, 10, 50, 90, 99):
            expected[f"q{q:02d}"] = np.quantile(values, q / 100, axis=0, method=method)
        for key, value in expected.items():
            assert found[key].shape == shape
            np.testing.assert_allclose(found[key].reshape(-1), value, rtol=1e-12, atol=1e-12)


def test_episode_table_and_stats_of_each_episode(dataset: Path, episodes: list[DemoEpisode]) -> None:
    table = pq.read_table(dataset / "meta/episodes/chunk-000/file-000.parquet").to_pydict()
    assert table["dataset_from_index"] == [0, 7, 8, 20]
    assert table["dataset_to_index"] == [7, 8, 20, 25]
    assert table["env_seed"] == [e.seed for e in episodes]
    for means, episode in zip(table["stats/action/mean"], episodes, strict=True):
        np.testing.assert_allclose(means, episode.actions.astype(np.float64).mean(0))


def test_huggingface_metadata_names_every_column(dataset: Path) -> None:
    arrow = pq.read_schema(dataset / DATA)
    described = json.loads(arrow.metadata[b"huggingface"])["info"]["features"]
    assert list(described) == arrow.names == list(json.loads((dataset / "meta/info.json").read_text())["features"])
    assert described["observation.images.corner2"] == {"_type": "Image"}
    assert described["action"] == {
        "feature": {"dtype": "float32", "_type": "Value"},
        "length": 4,
        "_type": "List",
    }


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), horizon=st.integers(1, 12))
def test_action_chunks_against_brute_force(lengths: list[int], horizon: int) -> None:
    episode = np.repeat(np.arange(len(lengths)), lengths)
    actions = np.arange(len(episode), dtype=np.float32)[:, None]
    empty = np.empty((len(episode), 0))
    indices, real = action_chunks(Frames(empty, empty, actions, episode, episode, episode, []), horizon)
    for t in range(len(episode)):
        own = [a for a, e in zip(actions[t:, 0], episode[t:], strict=True) if e == episode[t]]
        padded = (own + [own[-1]] * horizon)[:horizon]
        assert actions[indices[t], 0].tolist() == padded
        assert real[t].tolist() == [k < len(own) for k in range(horizon)]


@given(tasks=st.lists(st.integers(0, 3), min_size=1, max_size=20), keep=st.integers(1, 5))
def test_keep_per_task_takes_the_first_of_each(tasks: list[int], keep: int) -> None:
    kept = select_episodes(range(len(tasks)), np.array(tasks), keep, None).tolist()
    assert kept == sorted(e for task in set(tasks) for e in [i for i, t in enumerate(tasks) if t == task][:keep])
    assert select_episodes(range(len(tasks)), np.array(tasks), None, None).tolist() == list(range(len(tasks)))


@pytest.mark.parametrize(
    ("ids", "words"),
    [([4], "no episode 4; there are 2 to 3, 5 to 7$"), ([-1], "no episode -1"), ([3, 3], "twice"), ([], "null")],
)
def test_episodes_are_chosen_by_their_own_numbers(ids: list[int], words: str) -> None:
    assert select_episodes([2, 3, 5, 6, 7], np.zeros(5), None, [7, 2, 3]).tolist() == [0, 1, 4]
    with pytest.raises(UserError, match=words):
        select_episodes([2, 3, 5, 6, 7], np.zeros(5), None, ids)


def edit_json(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return apply


def rewrite(table: pa.Table, path: Path, compression: str = "none") -> None:
    pq.write_table(table, path, compression=compression, use_dictionary=compression != "none")


def edit_column(name: str, change: Callable[[list], list], kind: pa.DataType | None = None) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        table = pq.read_table(folder / DATA)
        index = table.schema.get_field_index(name)
        values = pa.array(change(table[name].to_pylist()), kind or table.schema.field(name).type)
        rewrite(table.set_column(index, name, values), folder / DATA)

    return apply


def truncate(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])  # type: ignore[return-value]


def scramble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = b"\xff" * (len(content) // 2 - 4)
    path.write_bytes(content)


def drop_action(folder: Path) -> None:
    rewrite(pq.read_table(folder / DATA).drop_columns(["action"]), folder / DATA)


IMAGE = "observation.images.corner2"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder absent": (shutil.rmtree, "meta/info.json: missing"),
    "info is no JSON": (truncate("meta/info.json", 40), "info.json: no valid JSON"),
    "version 2": (
        edit_json("meta/info.json", lambda i: i.update(codebase_version="v2.1")),
        "convert_dataset_v21_to_v30",
    ),
    "version 9": (edit_json("meta/info.json", lambda i: i.update(codebase_version="v9")), "'v9' is unknown"),
    "empty": (edit_json("meta/info.json", lambda i: i.update(total_frames=0)), "is empty"),
    "frames missing": (
        edit_json("meta/info.json", lambda i: i.update(total_frames=26)),
        "25 frames in data/, 26",
    ),
    "no such feature": (
        edit_json("meta/info.json", lambda i: i["features"].pop(IMAGE)),
        f"no feature '{IMAGE}'",
    ),
    "video": (
        edit_json("meta/info.json", lambda i: i["features"][IMAGE].update(dtype="video")),
        "stored as video",
    ),
    "wrong length": (
        edit_json("meta/info.json", lambda i: i["features"]["action"].update(shape=[7])),
        "says 7",
    ),
    "wrong image size": (
        edit_json(
            "meta/info.json",
            lambda i: [i["features"][f"observation.images.{c}"].update(shape=[16, 16, 3]) for c in CAMERAS],
        ),
        "is (32, 32, 3)",
    ),
    "no data": (lambda folder: shutil.rmtree(folder / "data"), "no data/chunk-"),
    "truncated parquet": (truncate(DATA, 5000), "damaged parquet"),
    "scrambled parquet": (lambda folder: scramble(folder / DATA), "damaged parquet"),
    "column absent": (drop_action, "column 'action' is missing"),
    "ragged": (
        edit_column("action", lambda a: [a[0][:3], *a[1:]], pa.list_(pa.float32())),
        "not 4 numbers in every frame",
    ),
    "NaN": (edit_column("action", lambda a: [*a[:-1], [float("nan")] * 4]), "not finite in frame 24"),
    "no image bytes": (
        edit_column(IMAGE, lambda a: [*a[:3], {"bytes": b"xx", "path": None}, *a[4:]]),
        "frame 3: no readable picture",
    ),
    "compressed pictures": (
        lambda folder: rewrite(pq.read_table(folder / DATA), folder / DATA, "gzip"),
        "is compressed, and pictures are read where they lie",
    ),
    "null image": (edit_column(IMAGE, lambda a: [None, *a[1:]]), "no value in 1 rows"),
    "frames out of order": (edit_column("frame_index", lambda a: a[::-1]), "does not count"),
    "unknown task": (edit_column("task_index", lambda a: [5, *a[1:]]), "task_index outside the 2"),
    "tasks absent": (lambda folder: (folder / "meta/tasks.parquet").unlink(), "tasks.parquet: missing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_dataset_is_told_in_one_line(name: str, dataset: Path, tmp_path: Path) -> None:
    damage, words = BROKEN[name]
    folder = tmp_path / "copy"
    shutil.copytree(dataset, folder)
    damage(folder)
    with pytest.raises(UserError) as caught:
        read_dataset(folder, CAMERAS, object_state=True)
    message = str(caught.value)
    assert words in message
    assert str(folder) in message
    assert "\n" not in message


def test_broken_stats_are_told(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(dataset, folder)
    edit_json("meta/stats.json", lambda s: s["action"].pop("q01"))(folder)
    with pytest.raises(UserError, match="no finite 'q01' of 'action'"):
        dataset_stats(folder)

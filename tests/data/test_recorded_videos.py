"""Datasets that others recorded as videos: the hub's layout of CALVIN, with real mp4 files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pirl_core.data.curate import dataset_size
from pirl_core.data.lerobot import read_dataset
from pirl_core.data.recorded import files as recorded_files
from pirl_core.data.recorded.index import ROWS
from pirl_core.errors import UserError
from pirl_core.params.sections import Env
from tests.checkpoints.fake_hub import REPO
from tests.data.test_recorded import CURATE, feature, fetched, info, make, published, row_columns

SHAPES = {
    "state.ee_pos": 3, "state.ee_rot": 3, "state.gripper": 1,
    "action.delta_ee_pos": 3, "action.delta_ee_rot": 3, "action.gripper": 1,
}  # fmt: skip
SIZES = {"video.image_base": 200, "video.image_wrist": 84}
CAMERAS = {"static": "video.image_base", "gripper": "video.image_wrist"}
SENTENCES = [
    "go open the drawer",
    "stack the blocks",
    "pick up the red block",
    "pull the handle to open the drawer",
    "Open the drawer ",
]
CALVIN = Env(
    benchmark="calvin", tasks=["B/open_drawer", "A/open_drawer", "A/lift_red_block_table"], shift="random",
    episode_steps=9, cameras=["gripper", "static"], image_size=48, fast_render=True, object_state=False,
    keys={}, frame_stack=1, sim_backend="cpu",
)  # fmt: skip


class Episode(NamedTuple):
    """state, actions: (T, 7) float32. videos: of each feature (T, H, W, 3) uint8, before the codec."""

    state: np.ndarray
    actions: np.ndarray
    videos: dict[str, np.ndarray]


def write_video(path: Path, frames: np.ndarray, codec: str = "libx264", rate: int = 30, first: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        options = {"crf": "18", "g": "2", "preset": {"libx264": "ultrafast", "libsvtav1": "8"}[codec]}
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for number, pixels in enumerate(frames, first):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def scenery(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Frames that grow brighter by 15, each a ramp in colours of its own."""
    down, right = np.linspace(0, 60, size)[:, None, None], np.linspace(0, 60, size)[:, None]
    ramp = 40 * rng.random(3) + down * rng.random(3) + right * rng.random(3)
    return (ramp + 15 * np.arange(count)[:, None, None, None]).astype(np.uint8)


def write_calvin(folder: Path, codec: str = "libx264", bare: bool = False) -> list[Episode]:
    """An episode of each of SENTENCES, in the layout of ``InternRobotics/InternData-Calvin_ABC``, two a chunk.

    bare: a column of one number holds numbers, not lists of one.
    """
    rng, episodes = np.random.default_rng(3), []
    video = {name: {"dtype": "video", "shape": [size, size, 3]} for name, size in SIZES.items()}
    vectors = {name: {"dtype": "float32", "shape": [length]} for name, length in SHAPES.items()}
    vectors |= {name: {"dtype": "int64", "shape": [1]} for name in ROWS}
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text(
        json.dumps({
            "codebase_version": "v2.1", "chunks_size": 2, "fps": 30, "total_episodes": 5, "total_frames": 25,
            "features": video | vectors,
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        })
    )  # fmt: skip
    rows = [{"episode_index": number, "tasks": [text], "length": 3 + number} for number, text in enumerate(SENTENCES)]
    (folder / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number in range(len(SENTENCES)):
        count = 3 + number
        state, actions = rng.uniform(-1, 1, (2, count, 7)).astype(np.float32)
        columns = np.split(state, (3, 6), axis=1) + np.split(actions, (3, 6), axis=1)
        table = row_columns(number, count, 30) | {
            name: column[:, 0] if bare and column.shape[1] == 1 else list(column)
            for name, column in zip(SHAPES, columns, strict=True)
        }
        path = folder / f"data/chunk-{number // 2:03d}/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), path)
        videos = {name: scenery(rng, count, size) for name, size in SIZES.items()}
        for name, frames in videos.items():
            write_video(folder / f"videos/chunk-{number // 2:03d}/{name}/episode_{number:06d}.mp4", frames, codec)
        episodes.append(Episode(state, actions, videos))
    return episodes


@pytest.mark.parametrize(("codec", "bare"), [("libx264", True), ("libsvtav1", False)])
def test_frames_are_as_recorded(codec: str, bare: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the tasks that are learnt: an episode is its first task's, whichever scene it shows."""
    monkeypatch.chdir(tmp_path)
    episodes = write_calvin(Path("recorded"), codec, bare)
    frames = read_dataset(make(env=CALVIN), CALVIN.cameras, object_state=False)
    kept = [0, 2, 3, 4]
    assert np.array_equal(frames.state, np.concatenate([episodes[number].state for number in kept]))
    assert np.array_equal(frames.actions, np.concatenate([episodes[number].actions for number in kept]))
    for column, camera in enumerate(CALVIN.cameras):
        pictures = np.concatenate([episodes[number].videos[CAMERAS[camera]] for number in kept])
        small = [Image.fromarray(picture).resize((48, 48), Image.Resampling.BILINEAR) for picture in pictures]
        wanted = np.stack([np.asarray(picture) for picture in small])
        loss = np.abs(frames.images[:, column].astype(int) - wanted).mean((1, 2, 3))
        assert loss.max() < 3  # of 255; neighbours differ by 15
    noted = json.loads(Path("made/meta/curation.json").read_text())["episodes"]
    assert [origin["task"] for origin in noted] == [CALVIN.tasks[index] for index in (0, 2, 0, 0)]
    assert [frames.tasks[index] for index in frames.task_index[frames.frame == 0]] == [
        SENTENCES[number].strip().lower() for number in kept
    ]


def test_a_sequence_has_the_episodes_of_every_subtask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many of each as of a task."""
    monkeypatch.chdir(tmp_path)
    write_calvin(Path("recorded"))
    assert dataset_size(CALVIN.model_copy(update={"tasks": ["D/sequence"]}), CURATE) == 5
    both = CALVIN.model_copy(update={"tasks": ["A/open_drawer", "D/sequence"]})
    assert dataset_size(both, CURATE.model_copy(update={"keep_per_task": 2})) == 4
    one_each = CURATE.model_copy(update={"keep_per_task": 1})
    assert dataset_size(CALVIN.model_copy(update={"tasks": ["D/sequence"]}), one_each) == 3


def test_of_the_hub_only_what_is_kept_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data and the videos of the cameras in use, in two goes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recorded_files, "EPISODES_AT_ONCE", 1)
    episodes, env = write_calvin(Path("recorded")), CALVIN.model_copy(update={"cameras": ["gripper"]})
    with published(tmp_path / "cache", monkeypatch):
        folder = make(CURATE.model_copy(update={"dataset": REPO, "keep_episodes": [0, 4]}), env)
    assert fetched(tmp_path / "cache") == [
        "data/chunk-000/episode_000000.parquet",
        "data/chunk-002/episode_000004.parquet",
        "videos/chunk-000/video.image_wrist/episode_000000.mp4",
        "videos/chunk-002/video.image_wrist/episode_000004.mp4",
    ]
    frames = read_dataset(folder, env.cameras, object_state=False)
    assert np.array_equal(frames.actions, np.concatenate([episodes[0].actions, episodes[4].actions]))


LAST = Path("recorded/videos/chunk-002/video.image_wrist/episode_000004.mp4")
TABLE = Path("recorded/data/chunk-002/episode_000004.parquet")


def rewrite(**columns: Any) -> None:
    """TABLE with other columns; None drops one."""
    table = {name: pq.read_table(TABLE)[name] for name in (*SHAPES, *ROWS)} | columns
    pq.write_table(pa.table({name: column for name, column in table.items() if column is not None}), TABLE)


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "cut": (lambda: LAST.write_bytes(LAST.read_bytes()[:-200]), "wrist/episode_000004.mp4 cannot be used"),
    "spoilt": (
        lambda: LAST.write_bytes(LAST.read_bytes()[:1200] + bytes(200) + LAST.read_bytes()[1400:]),
        "wrist/episode_000004.mp4 cannot be used .frame 2 is damaged",
    ),
    "missing": (lambda: LAST.unlink(), "wrist/episode_000004.mp4 cannot be used .No such file"),
    "no video": (lambda: LAST.write_text("<html>"), "wrist/episode_000004.mp4 cannot be used .Invalid data"),
    "short": (
        lambda: write_video(LAST, np.zeros((6, 84, 84, 3), np.uint8)),
        "wrist/episode_000004.mp4 cannot be used .it has 6 frames, its parquet file 7 rows.; fetch it again",
    ),
    "no column": (
        lambda: rewrite(**{"state.gripper": None}),
        "episode_000004.parquet: column 'state.gripper' is missing",
    ),
    "four angles": (
        lambda: rewrite(**{"action.delta_ee_rot": list(np.zeros((7, 4)))}),
        r"episode_000004.parquet cannot be used .'action.delta_ee_pos .* holds 8 numbers, CALVIN's action 7",
    ),
    "ragged": (lambda: rewrite(**{"state.ee_pos": [[0.0] * 3] * 6 + [[]]}), "episode_000004.parquet cannot be used"),
    "no feature": (
        lambda: info(features={}),
        "has no column 'observation.images.gripper'|no column 'video.image_wrist'",
    ),
    "sizes": (
        lambda: feature("state.ee_rot", shape=[4]),
        r"state.ee_rot \+ state.gripper' of recorded is of shape \[3\] \+ \[4\] \+ \[1\]; CALVIN has 7 state numbers",
    ),
    "pattern": (lambda: info(video_path="videos/{camera}.mp4"), "info.json cannot be used .video_path 'videos/.camera"),
    "sentences": (
        lambda: Path("recorded/meta/episodes.jsonl").write_text(
            Path("recorded/meta/episodes.jsonl").read_text().replace("pick up the red", "think of the red")
        ),
        "no episode of recorded shows 'grasp and lift the red block', which is A/lift_red_block_table",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_leaves_nothing(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_calvin(Path("recorded"))
    spoil, said = FAULTS[fault]
    spoil()
    with pytest.raises(UserError, match=said) as caught:
        make(env=CALVIN)
    assert "\n" not in str(caught.value)
    assert not Path("made").exists()

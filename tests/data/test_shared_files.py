"""LeRobot v3 datasets: many episodes a file, as LeRobot's own package wrote them (``with_lerobot``)."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pirl_core.data.curate import make_dataset
from pirl_core.data.lerobot import Frames, read_dataset
from pirl_core.data.pictures import decode_span
from pirl_core.data.recorded import open_recorded, read_episodes
from pirl_core.data.recorded.rows import Rows
from pirl_core.errors import UserError
from pirl_core.params.sections import Env
from pirl_core.readers import tables
from pirl_core.training.resume import Checkpoints
from pirl_core.training.track import Tracker
from tests.data.odd_dataset import CURATE
from tests.data.test_recorded import published
from tests.data.test_recorded_videos import write_video
from tests.data.with_lerobot import LENGTHS, RATE, SENTENCES, SIZE, Raw, episodes

WRITTEN = Path(__file__).parent / "lerobot"
LIBERO = Env(
    benchmark="libero", tasks=["libero_goal_7", "libero_goal_8"], shift="none", episode_steps=9,
    cameras=["eye_in_hand", "agentview"], image_size=SIZE, fast_render=True, object_state=False, keys={},
    frame_stack=1,
    sim_backend="cpu",
)  # fmt: skip
ALONE = LIBERO.model_copy(update={"benchmark": None, "tasks": ["all"], "cameras": ["image2", "image"]})
LOSS = 3.0
"""Mean error of a pixel that LeRobot's codec makes, of 255; neighbouring frames differ by 15."""


@pytest.fixture(params=["images", "videos"])
def written(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(WRITTEN / request.param, "recorded")
    return str(request.param)


def make(env: Env = LIBERO, dataset: str = "recorded", **changes: Any) -> Frames:
    with Tracker("curate", "test", 1, None) as tracker:
        store = Checkpoints(Path("store"), 0, kept=None)
        curate = CURATE.model_copy(update={"dataset": dataset, "episodes_per_task": 4, **changes})
        make_dataset(env, curate, Path("made"), store, tracker)
    return read_dataset(Path("made"), env.cameras, object_state=False)


def check(frames: Frames, raws: list[Raw], loss: float, cameras: slice = slice(None, None, -1)) -> None:
    assert np.array_equal(frames.state, np.concatenate([raw.state for raw in raws]))
    assert np.array_equal(frames.actions, np.concatenate([raw.action for raw in raws]))
    assert frames.instructions == [raw.sentence for raw in raws for _ in raw.action]
    wanted = np.concatenate([raw.pictures for raw in raws])[:, cameras]
    assert np.abs(np.asarray(frames.images).astype(int) - wanted).mean((1, 2, 3, 4)).max() <= loss


def test_frames_are_as_lerobot_was_given_them(written: str) -> None:
    """By LIBERO's tasks, and by the dataset's own where there is no benchmark; state and action keep their names."""
    loss = LOSS if written == "videos" else 0
    check(make(), episodes(), loss)
    check(make(keep_episodes=[3, 1]), [episodes()[1], episodes()[3]], loss)
    noted = json.loads(Path("made/meta/curation.json").read_text())
    assert [origin["task"] for origin in noted["episodes"]] == ["libero_goal_8", "libero_goal_8"]
    check(make(ALONE), episodes(), loss)
    info = json.loads(Path("made/meta/info.json").read_text())
    assert (info["fps"], info["robot_type"]) == (RATE, "panda")
    names = [info["features"][name]["names"] for name in ("observation.state", "action")]
    assert names == [[f"s{n}" for n in range(8)], [f"a{n}" for n in range(7)]]
    check(make(ALONE.model_copy(update={"tasks": [SENTENCES[1].upper()]})), episodes()[1::2], loss)
    with pytest.raises(
        UserError, match=r"unknown recorded task 'turn off the stove'; did you mean 'turn on the stove'"
    ):
        make(ALONE.model_copy(update={"tasks": ["turn off the stove"]}))


def test_any_columns(written: str) -> None:
    """One camera under another name, state and action out of several columns, the sentence from a column."""
    for path in Path("recorded/data").rglob("*.parquet"):
        table = pq.read_table(path)
        said = pa.array([f"say {number}" for number in table["episode_index"].to_pylist()])
        pq.write_table(table.append_column("language", said), path)
    add_feature("language", dtype="string", shape=[1])
    columns = {
        "front": "observation.images.image",
        "state": ["action", "observation.state"],
        "action": "observation.state",
        "sentence": "language",
    }
    env = ALONE.model_copy(update={"cameras": ["front"]})
    raws = [
        Raw(f"say {number}", raw.pictures, np.concatenate([raw.action, raw.state], 1), raw.state)
        for number, raw in enumerate(episodes())
    ]
    check(make(env, columns=columns), raws, LOSS if written == "videos" else 0, slice(1))
    with pytest.raises(UserError, match=r"no column 'lang'; it has .*; name the one of the sentence in curate.columns"):
        make(env, columns=columns | {"sentence": "lang"})
    with pytest.raises(UserError, match=r"curate.columns: unknown name 'fron'; did you mean 'front'"):
        make(env, columns={"fron": "observation.images.image"})


def test_a_file_is_read_once_for_all_its_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its row groups are, and whatever the order of its rows."""
    read: list[Any] = []

    def counted(*given: Any) -> pa.Table:
        read.append(given)
        return tables.read_table(*given)

    monkeypatch.setattr("pirl_core.data.recorded.rows.read_table", counted)
    data = open_recorded(str(WRITTEN / "images"), None, LIBERO)
    assert {episode.files["data"].name for episode in data.episodes} == {
        "data/chunk-000/file-000.parquet", "data/chunk-000/file-001.parquet",
    }  # fmt: skip
    rows = Rows(data, {"action": tables.VECTOR})
    for episode, raw in zip(data.episodes, episodes(), strict=True):
        found = rows.of(episode, WRITTEN / "images" / episode.files["data"].name)["action"].to_pylist()
        assert np.array_equal(np.array(found, np.float32), raw.action)
    assert len(read) == len(LENGTHS)  # LeRobot writes a row group for each


def test_one_row_group_of_all_rows_shuffled(written: str) -> None:
    for path in Path("recorded/data").rglob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), path)
    check(make(), episodes(), LOSS if written == "videos" else 0)


def test_of_the_hub_only_files_of_kept_episodes_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(WRITTEN / "videos", "recorded")
    from tests.checkpoints.fake_hub import REPO
    from tests.data.test_recorded import fetched

    with published(tmp_path / "cache", monkeypatch):
        check(make(dataset=REPO, keep_episodes=[3]), episodes()[3:], LOSS)
    got = fetched(tmp_path / "cache")
    assert [name for name in got if name.startswith("data")] == ["data/chunk-000/file-001.parquet"]
    assert len(got) == 3  # a video of each camera


@pytest.mark.parametrize("first", [0, 7])
def test_times_count_from_a_videos_first_frame(first: int, tmp_path: Path) -> None:
    """Whatever its clock says then; of any span, sought or not."""
    scenes = np.concatenate([raw.pictures[:, 0] for raw in episodes()])
    write_video(tmp_path / "x.mp4", scenes, rate=RATE, first=first)
    for start, count in ((0, 22), (0, 1), (7, 1), (8, 9), (17, 5)):
        found = np.array(decode_span(tmp_path / "x.mp4", SIZE, start / RATE, count, RATE))
        assert np.abs(found.astype(int) - scenes[start : start + count]).mean((1, 2, 3)).max() < LOSS


def add_feature(name: str, **feature: Any) -> None:
    path = Path("recorded/meta/info.json")
    info = json.loads(path.read_text())
    info["features"][name] = info["features"].get(name, {}) | feature
    path.write_text(json.dumps(info))


def information(**changes: Any) -> None:
    path = Path("recorded/meta/info.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change(name: str, column: str, to: Callable[[list[Any]], list[Any]]) -> None:
    path = Path("recorded") / name
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    values = pa.array(to(table[column].to_pylist()), table.schema.field(place).type)
    pq.write_table(table.set_column(place, column, values), path)


def cut(name: str, bytes_left: int) -> None:
    path = Path("recorded") / name
    path.write_bytes(path.read_bytes()[:bytes_left])


EPISODES, LAST = "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-001.parquet"
VIDEO = "videos/observation.images.image/chunk-000/file-000.mp4"
END = "videos/observation.images.image/to_timestamp"
FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "cut": (lambda: cut(LAST, 3000), "file-001.parquet: damaged parquet .*; fetch it again"),
    "lost": (lambda: (Path("recorded") / LAST).unlink(), "file-001.parquet: no such file; fetch it again"),
    "no list": (lambda: shutil.rmtree("recorded/meta/episodes"), "meta/episodes cannot be used .it holds no chunk"),
    "cut list": (lambda: cut(EPISODES, 20000), "meta/episodes/chunk-000/file-000.parquet: damaged parquet"),
    "listed twice": (
        lambda: change(EPISODES, "episode_index", lambda v: [0, 1, 1, 3]), "cannot be used .episode_index 1 comes twice"
    ),
    "no sentence": (lambda: change(EPISODES, "tasks", lambda v: [[], *v[1:]]), "cannot be used .episode 0: needs"),
    "fewer rows": (
        lambda: change(LAST, "episode_index", lambda v: [*v[:-1], 7]),
        "file-001.parquet cannot be used .it has 4 rows of episode 3, meta/episodes says 5.; fetch both again",
    ),
    "longer": (
        lambda: [change(EPISODES, "length", lambda v: [7, 1, 9, 6]), information(total_frames=23)],  # type: ignore[func-returns-value]
        "file-00..parquet cannot be used .(it has 5 rows of episode 3|episode 3 lasts 0.25 s in 'videos/obs)",
    ),
    "frames in all": (lambda: information(total_frames=21), "total_frames is 21, in meta/episodes there are 22"),
    "nan": (
        lambda: change(LAST, "action", lambda v: [*v[:-1], [float("nan")] * 7]),
        "file-001.parquet cannot be used .'action' is nan at frame 4, number 0.*keep_episodes",
    ),
    "another rate": (lambda: information(fps=10), "cannot be used .('timestamp' goes from 0|episode 0 lasts 0.35 s)"),
    "another shape": (
        lambda: add_feature("action", shape=[6]), "'action' of recorded is of shape .6.; LIBERO has 7 action numbers"
    ),
    "a place outside": (lambda: information(data_path="../{chunk_index}"), "'../0' leaves its folder"),
    "another's place": (
        lambda: information(data_path="{episode_index}"), "data_path .*{episode_index} is none of video_key, chunk"
    ),
}  # fmt: skip
OF_VIDEOS: dict[str, tuple[Callable[[], object], str]] = {
    "cut video": (lambda: cut(VIDEO, 900), "image/chunk-000/file-000.mp4 cannot be used"),
    "lost video": (lambda: (Path("recorded") / VIDEO).unlink(), "file-000.mp4 cannot be used .No such file"),
    "a frame short": (
        lambda: change(EPISODES, END, lambda v: [v[0] - 1 / RATE, *v[1:]]),
        "cannot be used .episode 0 lasts 0.3 s in 'videos/observation.images.image', and has 7 frames at 20 a second",
    ),
    "ends early": (
        lambda: write_video(Path("recorded") / VIDEO, np.zeros((5, SIZE, SIZE, 3), np.uint8), rate=RATE),
        "file-000.mp4 cannot be used .it ends at 0.25 s, 2 frames early",
    ),
    "twice as fast": (
        lambda: write_video(Path("recorded") / VIDEO, np.zeros((50, SIZE, SIZE, 3), np.uint8), rate=2 * RATE),
        "file-000.mp4 cannot be used .at 0.025 s it shows a frame, at 20 a second one belongs at 0.05 s",
    ),
}


@pytest.mark.parametrize(
    ("kind", "fault"), [("images", f) for f in FAULTS] + [("videos", f) for f in [*FAULTS, *OF_VIDEOS]]
)
def test_a_fault_is_one_line_and_leaves_nothing(
    kind: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(WRITTEN / kind, "recorded")
    spoil, said = (FAULTS | OF_VIDEOS)[fault]
    spoil()
    with pytest.raises(UserError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert not Path("made").exists()


def test_what_was_made_here_is_read_again(written: str) -> None:
    """Byte for byte, from the first curated dataset on; but for the note of where it came from."""
    first = make(ALONE)
    shutil.copytree("made", "again")
    second = make(ALONE, dataset="again")
    assert np.array_equal(np.asarray(first.images), np.asarray(second.images))
    for path in (path for path in Path("again").rglob("*") if path.is_file() and path.name != "curation.json"):
        if "episodes" not in path.parts:
            assert path.read_bytes() == (Path("made") / path.relative_to("again")).read_bytes(), path


def test_constant_numbers_are_told_and_act_as_they_are(written: str) -> None:
    for path in Path("recorded/data").rglob("*.parquet"):
        change(str(path.relative_to("recorded")), "action", lambda rows: [[*row[:3], 0.5, *row[4:]] for row in rows])
    assert (make().actions[:, 3] == 0.5).all()
    noted = json.loads(Path("made/meta/curation.json").read_text())["hardly_varying"]
    assert noted[-1] == "action numbers that never vary, and that a policy can learn nothing of: 3 (drx)"


def test_pieces_of_a_video_that_many_share() -> None:
    """The episodes that lie in the middle of one, of each camera."""
    data = open_recorded(str(WRITTEN / "videos"), None, LIBERO)
    shared = [episode for episode in data.episodes if episode.files["agentview"].start]
    assert shared and len({episode.files["agentview"].name for episode in data.episodes}) > 1
    for episode, found in zip(shared, read_episodes(data, LIBERO, shared), strict=True):
        wanted = episodes()[episode.number].pictures[:, ::-1]
        assert np.abs(found.images.astype(int) - wanted).mean((1, 2, 3, 4)).max() < LOSS

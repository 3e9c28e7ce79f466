"""Datasets of others with an oddity: either read to the frames of the plain one, or refused in one line that names the
file, what is wrong in it, and a remedy."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pirl_core.data.curate import make_dataset
from pirl_core.data.lerobot import read_dataset
from pirl_core.data.recorded import shared_sentences
from pirl_core.errors import UserError
from pirl_core.facts import facts_of
from pirl_core.params.sections import Env
from pirl_core.training.resume import Checkpoints
from pirl_core.training.track import Tracker
from tests.data.odd_dataset import (
    CURATE,
    IMAGES,
    LIBERO,
    Dataset,
    encoded,
    pixels_of,
    plain,
    read,
    same,
    stored,
)

WAYS = ["struct", "binary", "rgba", "path", "float flat", "float", "float chw", "float flat chw", "bytes", "bytes chw"]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ways=st.tuples(st.sampled_from(WAYS), st.sampled_from(WAYS)), ends=st.booleans())
def test_the_same_frames_in_whatever_order_and_form(seed: int, ways: tuple[str, str], ends: bool) -> None:
    """Rows and lines shuffled, episodes missing, pictures kept otherwise, numbers as doubles, other ends of lines."""
    rng = np.random.default_rng(seed)
    lengths = tuple(rng.integers(1, 6, 4).tolist())
    wanted, odd = read(plain(lengths=lengths)), plain(lengths=lengths)
    numbers = np.sort(rng.choice(9, 4, replace=False)).tolist()
    for row, number in zip(odd.listed, numbers, strict=True):
        row |= {"episode_index": number, "tasks": [f" {row['tasks'][0].upper()}\u2028", "and another"]}
    odd.tables = dict(zip(numbers, odd.tables.values(), strict=True))
    for number, columns in odd.tables.items():
        columns["episode_index"] = [[number]] * len(columns["episode_index"])
    for name, how in zip(IMAGES, ways, strict=True):
        stored(odd, name, how)
    for number, columns in odd.tables.items():
        order = rng.permutation(len(columns["frame_index"]))
        odd.tables[number] = {name: [values[row] for row in order] for name, values in columns.items()}
        odd.tables[number]["state"] = [[float(x) for x in row] for row in odd.tables[number]["state"]]
    odd.listed = [odd.listed[at] for at in rng.permutation(4)]
    odd.line_end = "\r\n" if ends else "\n"
    assert same(read(odd), wanted)


@pytest.mark.parametrize("how", ["L", "LA", "1 channel", "float 1 channel", "no channel", "first"])
def test_grey_pictures_become_colour(how: str) -> None:
    wanted, odd = plain(), plain()
    for mine, theirs in zip(odd.tables.values(), wanted.tables.values(), strict=True):
        for frame, cell in enumerate(theirs["image"]):
            grey = pixels_of(cell)[..., 0]
            theirs["image"][frame] = {"bytes": encoded(np.dstack([grey] * 3)), "path": None}
            forms: dict[str, Any] = {
                "1 channel": grey[..., None].tolist(),
                "float 1 channel": list(map(list, grey[..., None].astype(np.float32) / 255)),
                "no channel": grey.tolist(),
                "first": grey[None].tolist(),
            }
            mine["image"][frame] = forms[how] if how in forms else {"bytes": encoded(grey, how), "path": None}
    assert same(read(odd), read(wanted))


def cell(name: str, change: Callable[[Any], Any], frame: int = 2, number: int = 3) -> Callable[[Dataset], None]:
    """An oddity: one value of a column is another."""

    def spoil(dataset: Dataset) -> None:
        values = dataset.tables[number][name]
        values[frame] = change(values[frame])

    return spoil


def column(name: str, change: Callable[[list[Any]], Any], number: int = 3) -> Callable[[Dataset], None]:
    def spoil(dataset: Dataset) -> None:
        dataset.tables[number][name] = change(dataset.tables[number][name])

    return spoil


def information(**changes: Any) -> Callable[[Dataset], None]:
    return lambda dataset: dataset.info.update(changes)


def line(number: int = 3, **changes: Any) -> Callable[[Dataset], None]:
    return lambda dataset: dataset.listed[number].update(changes)


def with_one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda row: np.concatenate([row[:2], [np.float32(value)], row[3:]])


def picture(change: Callable[[np.ndarray], Any]) -> Callable[[Dataset], None]:
    """An oddity: the column 'image' holds what becomes of its pixels."""
    return column("image", lambda cells: [change(pixels_of(cell)) for cell in cells])


FILE = r"odd/data/chunk-001/episode_000003.parquet"
TABLE = f"{FILE} cannot be used"
INFO = r"odd/meta/info.json cannot be used"
REMEDIES = (
    "fetch it again|fetch both again|curate.keep_episodes|as PNG inside the file|lie in its folder|as LeRobot writes it"
)
REFUSED: dict[str, tuple[Callable[[Dataset], object], str]] = {
    "a frame twice": (cell("frame_index", lambda _: 1), f"{TABLE} .'frame_index' .* 1 where 2 should be"),
    "from one on": (column("frame_index", lambda v: [1 + x for x in v]), f"{TABLE} .'frame_index' .* 1 where 0"),
    "half a frame": (column("frame_index", lambda v: [x / 2 for x in v]), f"{TABLE} .'frame_index' .* 0.5 where 1"),
    "no frame": (cell("frame_index", lambda _: None), f"{FILE}: column 'frame_index' has no value"),
    "words": (column("frame_index", lambda v: ["first"] * len(v)), f"{FILE}: column 'frame_index' must hold numbers"),
    "back in time": (column("timestamp", lambda v: v[::-1]), f"{TABLE} .'timestamp' goes from 0.4 to 0.3 s at frame 1"),
    "twice as slow": (column("timestamp", lambda v: [2 * x for x in v]), f"{TABLE} .'timestamp' .* says 10 frames"),
    "timeless": (cell("timestamp", lambda _: None), f"{FILE}: column 'timestamp' has no value"),
    "another's rows": (cell("episode_index", lambda _: 2), f"{TABLE} .'episode_index' is 2 in it, not 3"),
    "no column": (lambda d: d.tables[3].pop("timestamp"), f"{FILE}: column 'timestamp' is missing"),
    "shorter": (line(length=9), f"{INFO} .total_frames is 13, in meta/episodes.jsonl there are 17"),
    "shorter in both": (
        lambda d: (line(length=9)(d), information(total_frames=17)(d))[0],
        f"{TABLE} .it has 5 rows, meta/episodes.jsonl says 9.*fetch both",
    ),
    "fewer episodes": (information(total_episodes=5), f"{INFO} .total_episodes is 5, in meta/episodes.jsonl .* are 4"),
    "no total": (information(total_frames=None), f"{INFO} .total_frames is None"),
    "a number twice": (line(episode_index=0), "odd/meta/episodes.jsonl cannot be used .entry 4: episode_index 0 comes"),
    "no length": (line(length=None), "odd/meta/episodes.jsonl cannot be used .entry 4: needs .* length"),
    "empty": (line(length=0), "odd/meta/episodes.jsonl cannot be used .entry 4: needs .* length"),
    "no sentence": (line(tasks=[]), "odd/meta/episodes.jsonl cannot be used .entry 4: needs .* tasks"),
    "nan": (cell("state", with_one(np.nan)), f"{TABLE} .'state' is nan at frame 2, number 2.*keep_episodes"),
    "inf": (cell("actions", with_one(-np.inf)), f"{TABLE} .'actions' is -inf at frame 2, number 2.*keep_episodes"),
    "null": (cell("actions", lambda row: None), f"{FILE}: column 'actions' has no value in 1 rows"),
    "ragged": (cell("actions", lambda row: row[:-1]), f"{TABLE} .'actions' is not equally many numbers"),
    "too many numbers": (
        column("actions", lambda v: [np.append(row, 0) for row in v]),
        f"{TABLE} .'actions' holds 8 numbers, LIBERO's action 7",
    ),
    "nothing": (cell("image", lambda _: None), f"{FILE}: column 'image' has no value in 1 rows"),
    "neither": (
        column("image", lambda v: [{"bytes": None, "path": None}] * len(v)),
        f"{TABLE} .'image' at frame 0: neither bytes, nor a path",
    ),
    "no file": (
        column("image", lambda v: [{"bytes": None, "path": "images/1.png"}] * len(v)),
        f"{TABLE} .'image' at frame 0: it lies in images/1.png, which is not there",
    ),
    "a file elsewhere": (
        column("image", lambda v: [{"bytes": None, "path": "../../etc/1.png"}] * len(v)),
        f"{TABLE} .'image' at frame 0: '../../etc/1.png' leaves its folder",
    ),
    "an absolute file": (
        column("image", lambda v: [{"bytes": None, "path": "/etc/hostname"}] * len(v)),
        f"{TABLE} .'image' at frame 0: '/etc/hostname' leaves its folder",
    ),
    "spoilt": (cell("image", lambda c: {**c, "bytes": c["bytes"][:60]}), f"{TABLE} .'image' at frame 2: .*truncated"),
    "no picture": (
        cell("image", lambda c: {**c, "bytes": b"<html>"}),
        f"{TABLE} .'image' at frame 2: no readable picture: none of PNG",
    ),
    "16 bits": (
        picture(lambda p: {"bytes": encoded(p[..., 0].astype(np.uint16) * 255), "path": None}),
        f"{TABLE} .'image' at frame 0: its pixels are I;?1?6?, 8 bits",
    ),
    "floats up to 255": (picture(lambda p: p.astype(np.float32).ravel()), f"{TABLE} .'image' at frame 0: pixels go fr"),
    "floats from -1": (
        picture(lambda p: (p / 127.5 - 1).ravel()),
        f"{TABLE} .'image' at frame 0: pixels go from -1 to .*; floats lie in .0, 1",
    ),
    "nan in a picture": (picture(lambda p: p.ravel() * np.nan), f"{TABLE} .'image' at frame 0: pixels go from nan"),
    "wide integers": (
        picture(lambda p: p.astype(np.int64).ravel() + 1), f"{TABLE} .'image' at frame 0: pixels go from 1 to 256"
    ),
    "a pixel short": (picture(lambda p: p.ravel()[:-1]), f"{TABLE} .'image' at frame 0: cannot reshape"),
    "two channels": (
        picture(lambda p: p[..., :2].tolist()), rf"{TABLE} .'image' at frame 0: int64 of shape .* is no picture"
    ),
    "slow": (information(fps=0), f"{INFO} .fps is 0"),
    "no folders": (information(chunks_size=0), f"{INFO} .chunks_size is 0"),
    "the folder above": (information(data_path="../.."), f"{INFO} .'../..' leaves its folder"),
    "an absolute path": (information(data_path="/dev/{episode_index}"), f"{INFO} .'/dev/0' leaves its folder"),
    "the folder itself": (information(data_path="data/.."), f"{INFO} .'data/..' leaves its folder"),
    "all memory": (
        information(data_path="{episode_index:0999999999d}"),
        f"{INFO} .data_path '{{episode_index:09.*no width of a number",
    ),
    "Python's inside": (
        information(data_path="{episode_index.__class__}"),
        f"{INFO} .data_path .*{{episode_index.__class__}} is none of episode_chunk, episode_index, video_key",
    ),
    "no template": (information(data_path="{episode_index"), f"{INFO} .data_path '{{episode_index'"),
}  # fmt: skip


@pytest.mark.parametrize("oddity", REFUSED)
def test_what_cannot_be_read_is_told_in_one_line(oddity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spoil, said = REFUSED[oddity]
    dataset = plain()
    spoil(dataset)
    dataset.write(Path("odd"))
    with pytest.raises(UserError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert re.search(REMEDIES, str(caught.value))
    assert not Path("made").exists()


def test_links_that_leave_the_dataset_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = plain().write(Path("odd")) / "data/chunk-000/episode_000001.parquet"
    table.rename("elsewhere")
    table.symlink_to("../../../elsewhere")
    with pytest.raises(UserError, match=r"'data/chunk-000/episode_000001.parquet' leaves its folder\); all files"):
        make()
    table.unlink()
    Path("elsewhere").rename(Path("odd/within"))
    table.symlink_to("../../within")
    assert len(read_dataset(make(), [], object_state=False).tasks) == 2


def make(env: Env = LIBERO, **changes: Any) -> Path:
    with Tracker("curate", "test", 1, None) as tracker:
        store = Checkpoints(Path("store"), 0, kept=None)
        make_dataset(env, CURATE.model_copy(update=changes), Path("made"), store, tracker)
    return Path("made")


def curated(env: Env = LIBERO, **changes: Any) -> dict[str, Any]:
    noted: dict[str, Any] = json.loads((make(env, **changes) / "meta/curation.json").read_text())
    return noted


RATES = (
    "odd/meta/info.json: fps is 10, LIBERO acts 20 times a second; where the frames were thinned out, its actions are"
    " not what the simulator takes: give another dataset"
)


def test_what_is_unusual_is_told_and_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plain(lengths=(4, 1, 3, 5), reach=0.9).write(Path("odd"))
    assert curated()["notes"] == [RATES, "1 of 4 episodes have one frame: 1"]
    assert "warning: 1 of 4 episodes have one frame: 1" in capsys.readouterr().out
    told = curated(episodes_per_task=3)["notes"]
    assert told[0] == "fewer demonstrations than curate.episodes_per_task = 3: 2 of libero_object_9, 2 of libero_10_3"
    assert curated(keep_episodes=[0, 2])["notes"] == [RATES]
    assert capsys.readouterr().out.count("warning") == 4


def test_episodes_are_named_by_the_datasets_own_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = plain(lengths=(4, 2, 3, 5))
    dataset.tables.pop(1)
    dataset.listed.pop(1)
    dataset.info |= {"total_episodes": 3, "total_frames": 12}
    dataset.write(Path("odd"))
    assert [origin["episode"] for origin in curated()["episodes"]] == [0, 2, 3]
    noted = curated(keep_episodes=[3, 2])["episodes"]
    assert [(origin["episode"], origin["frames"]) for origin in noted] == [(2, 3), (3, 5)]
    with pytest.raises(UserError, match=r"curate.keep_episodes: no episode 1; there are 0, 2 to 3$"):
        make(keep_episodes=[1])


@pytest.mark.parametrize("benchmark", ["libero", "put_on_plate"])
def test_actions_are_recorded_as_the_simulator_takes_them(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it takes them in units of its own, nothing is beyond."""
    monkeypatch.chdir(tmp_path)
    env = LIBERO
    if benchmark == "put_on_plate":
        env = LIBERO.model_copy(update={"benchmark": benchmark, "tasks": ["put_on_plate"], "cameras": []})
    dataset = plain(env, reach=1.2)
    dataset.write(Path("odd"))
    noted = curated(env, episodes_per_task=4)
    name = "actions" if benchmark == "libero" else "action"
    before = [np.stack(dataset.tables[number][name]) for number in range(4)]
    most = 1.0 if benchmark == "libero" else np.inf
    found = read_dataset(Path("made"), [], object_state=False).actions
    assert np.array_equal(found, np.clip(np.concatenate(before), -most, most))
    beyond = [int((np.abs(actions) > most).any(1).sum()) for actions in before]
    assert [origin["clipped_actions"] for origin in noted["episodes"]] == beyond
    lines = [text for text in noted["notes"] if "clipped" in text]
    wanted = [f"{sum(beyond)} of 13 actions had numbers beyond ±1 and were clipped"] if benchmark == "libero" else []
    assert lines == wanted and (sum(beyond) > 0) == (benchmark == "libero")
    assert json.loads(Path("made/meta/info.json").read_text())["robot_type"] == facts_of(benchmark).robot


def test_liberos_shared_sentences_are_all_found() -> None:
    """Of any two tasks, one shares the other's sentence if the sentences are equal; 31 do with some."""
    tasks = list(facts_of("libero").tasks)
    said = {task: facts_of("libero").task(task).sentences[0] for task in tasks}
    alike = {task: {other for other in tasks if said[other] == said[task]} for task in tasks}
    for chosen in (tasks, tasks[::-1], tasks[25:40]):
        groups = shared_sentences(list(said.values()), chosen, facts_of("libero"))
        found = {task: set(group.tasks) for group in groups for task in group.tasks if task in chosen}
        assert found == {task: alike[task] for task in chosen if len(alike[task]) > 1}
        assert all(group.tasks[0] == min(set(chosen) & set(group.tasks), key=chosen.index) for group in groups)
        assert all(group.episodes == len(group.tasks) and len(group.sentences) == 1 for group in groups)
    assert sum(len(others) > 1 for others in alike.values()) == 31


def test_tasks_that_share_a_sentence_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of env.tasks has the episodes; one that is not of env.tasks may be shown as well."""
    monkeypatch.chdir(tmp_path)
    said = Counter(facts_of("libero").task(task).sentences[0] for task in facts_of("libero").tasks)
    assert said["turn on the stove"] == 3
    env = LIBERO.model_copy(update={"tasks": ["libero_90_44", "libero_90_20"]})
    plain(env).write(Path("odd"))
    noted = curated(env)
    assert noted["notes"][0] == (
        "no episode tells which task it shows where several share a sentence: 'turn on the stove' counts for"
        " libero_90_44 and is also libero_90_20, libero_goal_7"
    )
    assert noted["shared_sentences"] == [
        {
            "tasks": ["libero_90_44", "libero_90_20", "libero_goal_7"],
            "sentences": ["turn on the stove"],
            "episodes": 4,
        }
    ]
    assert {origin["task"] for origin in noted["episodes"]} == {"libero_90_44"}


def test_calvins_scenes_share_their_sentences() -> None:
    said = ["open the drawer", "Pull the handle to open the drawer", "no such thing"]
    [group] = shared_sentences(said, ["B/open_drawer", "A/open_drawer"], facts_of("calvin"))
    assert group.tasks[:2] == ("B/open_drawer", "A/open_drawer") and "D/open_drawer" in group.tasks[2:]
    assert group.episodes == 2 and "D/lift_red_block_table" not in group.tasks

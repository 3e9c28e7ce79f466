"""What a run tells of itself: each number in its place, whole at every moment, and going on after a kill."""

import importlib.util
import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pirl_core.errors import UserError
from pirl_core.training import track
from pirl_core.training.track import Tracker, clock

EVENTS = Path(".pirl/tensorboard/rl/m-0")
STATUS = Path(".pirl/status/rl-m-0.json")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def status() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(STATUS.read_text())
    return found


def events() -> EventAccumulator:
    return EventAccumulator(str(EVENTS), size_guidance={"images": 0, "scalars": 0, "tensors": 0}).Reload()


def scalars(tag: str) -> list[tuple[int, Any]]:
    return [(event.step, pytest.approx(event.value)) for event in events().Scalars(tag)]


def test_every_number_goes_where_it_belongs(capsys: pytest.CaptureFixture[str]) -> None:
    with Tracker("rl", "m-0", 2, Path()) as tracker:
        assert (status()["state"], status()["step"], status()["pid"]) == ("running", 0, os.getpid())
        tracker.log(0, {"validation/success": 0.5}, ("validation/success",))
        tracker.log(1, {"a": 0.1, "b": float("nan")}, ("b", "missing", "a"), {"time/x": 3.0})
        tracker.warn(1, "KL\nexploded")
        tracker.checkpointed(1)
        tracker.log(2, {"a": 0.5}, (), {"time/x": 4.0})
    assert rows("metrics.jsonl") == [
        {"step": 0, "validation/success": 0.5},
        {"step": 1, "a": 0.1, "b": None},
        {"step": 2, "a": 0.5},
    ]
    assert rows("timing.jsonl") == [{"step": 1, "time/x": 3.0}, {"step": 2, "time/x": 4.0}]
    assert rows("warnings.jsonl") == [{"step": 1, "text": "KL exploded"}]
    assert capsys.readouterr().out.splitlines() == [
        "[rl m-0] 0/2 validation/success=0.5",
        "[rl m-0] 1/2 b=nan a=0.1 eta=0:00",
        "[rl m-0] warning: KL exploded",
        "[rl m-0] 2/2 eta=0:00",
    ]
    assert scalars("a") == [(1, 0.1), (2, 0.5)]
    assert scalars("time/x") == [(1, 3.0), (2, 4.0)]
    (said,) = events().Tensors("warnings")
    assert (said.step, said.tensor_proto.string_val[0]) == (1, b"KL exploded")
    last = status()
    assert last["metrics"] == {"validation/success": 0.5, "a": 0.5, "b": None, "time/x": 4.0}
    assert (last["state"], last["step"], last["checkpoint_step"], last["warnings"]) == ("done", 2, 1, ["KL exploded"])
    assert last["started"] <= last["checkpoint_at"] <= last["updated"]


def test_a_resumed_run_goes_on_where_its_checkpoint_was() -> None:
    tracker = Tracker("rl", "m-0", 6, Path())
    for step in range(1, 6):
        tracker.log(step, {"a": float(step)}, ())
    # Killed: no __exit__, and half a record at the end of the event file. The log is that of the checkpoint at 3.
    (killed,) = EVENTS.iterdir()
    killed.write_bytes(killed.read_bytes()[:-3])
    Path("metrics.jsonl").write_text("".join(Path("metrics.jsonl").read_text().splitlines(keepends=True)[:3]))
    with Tracker("rl", "m-0", 6, Path(), resumed=3) as resumed:
        for step in range(4, 7):
            resumed.log(step, {"a": 10.0 * step}, ())
    wanted = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0)]
    assert [(row["step"], row["a"]) for row in rows("metrics.jsonl")] == wanted
    assert scalars("a") == wanted
    with Tracker("rl", "m-0", 6, None) as fresh:
        fresh.log(1, {"a": 7.0}, ())
    assert scalars("a") == [(1, 7.0)], "a fresh run starts from an empty folder"
    assert len(rows("metrics.jsonl")) == 6, "without a folder there are no curves"


def test_the_time_left_counts_only_steps_of_this_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track, "time", SimpleNamespace(time=time.time, monotonic=lambda: 1000.0))
    with Tracker("sft", "m-0", 2000, None, resumed=1000) as tracker:
        tracker._begun -= 100.0  # 100 s of work
        tracker.log(1100, {}, ())
        assert json.loads(Path(".pirl/status/sft-m-0.json").read_text())["step"] == 1000, "at most two writes a second"
    assert "1100/2000 eta=15:00" in capsys.readouterr().out
    times = {0.4: "0:00", 59.6: "1:00", 190: "3:10", 3600: "1:00:00", 36061: "10:01:01"}
    assert {seconds: clock(seconds) for seconds in times} == times


def test_progress_is_throttled_but_its_end_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with Tracker("curate", "m", 300, None) as tracker:
        for step in range(1, 301):
            tracker.progress(step, "faucet-open-v3", {"charts/success": step / 300})
    lines = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 10
    assert lines[-1] == "[curate m] 300/300 faucet-open-v3 charts/success=1 eta=0:00"
    last = json.loads(Path(".pirl/status/curate-m.json").read_text())
    assert (last["step"], last["metrics"]) == (300, {"charts/success": 1.0})


def test_work_after_the_last_step_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(track, "time", SimpleNamespace(time=time.time, monotonic=lambda: now))
    with Tracker("rl", "m-0", 2, None) as tracker:
        tracker.progress(2)
        tracker.aside("videos", 0, 16)
        now += 10.0
        for done in (1, 2):
            tracker.aside("videos", done, 16)
        tracker.aside("videos", 15, 16)
        tracker._store(now=True)
        running = status()
        tracker.aside("videos", 16, 16)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "[rl m-0] videos 0/16",
        "[rl m-0] videos 1/16 eta=2:30",
        "[rl m-0] videos 16/16 eta=0:00",
    ]
    assert (running["step"], running["message"], running["state"]) == (2, "videos 15/16", "running")
    assert 0 < running["eta_seconds"] < 2
    assert (status()["message"], status()["state"]) == ("", "done")


def test_videos_are_gifs_that_tensorboard_shows() -> None:
    colors = [(250, 20, 20), (20, 250, 20), (20, 20, 250)]
    frames = np.stack([np.full((12, 16, 3), color, np.uint8) for color in colors])
    with Tracker("rl", "m-0", 2, None) as tracker:
        tracker.video(2, "validation/0", frames, 10)
    (shown,) = events().Images("videos/validation/0")
    # TensorBoard's first page has a group for what stands before the slash, in alphabetical order: curves come first.
    assert sorted(["validation", "videos", "charts", "losses", "time"])[-1] == "videos"
    assert (shown.step, shown.width, shown.height) == (2, 16, 12)
    gif = Image.open(io.BytesIO(shown.encoded_image_string))
    assert (gif.format, gif.info["duration"], gif.info["loop"]) == ("GIF", 100, 0)
    seen = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    assert np.abs(np.stack(seen).astype(int) - frames).max() <= 4


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (None, "done", ""),
        (KeyboardInterrupt(), "stopped", ""),
        (SystemExit(143), "stopped", ""),
        (UserError("KL is 30;\nlower rl.actor_lr"), "failed", "KL is 30; lower rl.actor_lr"),
        (MemoryError(), "failed", "MemoryError"),
    ],
)
def test_how_it_ended(error: BaseException | None, state: str, message: str) -> None:
    def work() -> None:
        with Tracker("rl", "m-0", 5, None) as tracker:
            tracker.log(1, {}, ())
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    assert (status()["state"], status()["message"], status()["eta_seconds"]) == (state, message, None)


def test_other_ranks_leave_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Tracker("rl", "m-0", 5, tmp_path / "absent", trackers=("nonsense",), main=False) as tracker:
        tracker.log(1, {"a": 1.0}, ("a",), {"b": 1.0})
        tracker.progress(2)
        tracker.aside("videos", 0, 1)
        tracker.warn(2, "no")
        tracker.video(2, "v", np.zeros((1, 4, 4, 3), np.uint8), 10)
        tracker.checkpointed(2)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""


def test_a_missing_tracker_is_one_line_before_anything_is_written(tmp_path: Path) -> None:
    absent = [name for name in ("wandb", "trackio") if importlib.util.find_spec(name) is None]
    if not absent:
        pytest.skip("wandb and trackio are both installed")
    with pytest.raises(UserError, match=rf"run.trackers = {absent[0]}: .*pip install {absent[0]}"):
        Tracker("rl", "m-0", 5, tmp_path, trackers=absent)
    assert not list(tmp_path.iterdir())


RUN = """
from pathlib import Path
from pirl_core.training.track import Tracker
config = {{"rl": {{"actor_lr": 0.125}}}}
with Tracker("rl", "m-0", 3, Path(), trackers=[{name!r}], config=config, resumed={resumed}) as tracker:
    for step in range({resumed}, {resumed} + 4):
        tracker.log(step, {{"charts/success": step / 4}}, (), {{"time/update_seconds": 2.5}})
"""


def tracked(name: str, root: Path, folder: Path, resumed: int = 0, **variables: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root), **variables}
    words = [sys.executable, "-c", RUN.format(name=name, resumed=resumed)]
    subprocess.run(words, cwd=folder, env=environment, check=True, timeout=120)


def test_wandb_through_accelerate(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    tracked("wandb", root, tmp_path, WANDB_MODE="offline")
    (file,) = tmp_path.glob(".pirl/wandb/offline-run-*/*.wandb")
    assert all(word in file.read_bytes() for word in (b"charts/success", b"time/update_seconds", b"actor_lr", b"0.125"))
    assert {path.name for path in tmp_path.iterdir()} == {".pirl", *Tracker.FILES}


def test_a_resumed_run_is_the_same_one_for_wandb(root: Path, tmp_path: Path) -> None:
    """One that begins anew is another."""
    pytest.importorskip("wandb")
    seen = []
    for resumed in (0, 4, 0):
        tracked("wandb", root, tmp_path, resumed, WANDB_MODE="offline")
        folders = sorted(tmp_path.glob(".pirl/wandb/offline-run-*"), key=lambda folder: folder.stat().st_mtime)
        seen.append(folders[-1].name.rpartition("-")[2])
    assert seen[0] == seen[1] != seen[2]
    assert Path(".pirl/wandb-runs/rl-m-0").read_text().strip() == seen[2]


@pytest.mark.parametrize(("resumed", "same"), [(0, False), (7, True)])
def test_what_trackers_are_asked_for(resumed: int, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run is begun under the id and name that it had; a damaged id is as none."""
    asked: dict[str, dict[str, Any]] = {}

    def remembering(name: str) -> Any:
        def make(project: str, **words: Any) -> Any:
            asked[name] = {"project": project, **words}
            none = lambda *_, **__: None  # noqa: E731
            return SimpleNamespace(start=none, store_init_configuration=none, log=none, finish=none)

        return make

    monkeypatch.setattr("accelerate.tracking.WandBTracker", remembering("wandb"))
    monkeypatch.setattr("accelerate.tracking.TrackioTracker", remembering("trackio"))
    monkeypatch.setattr(track, "_require", lambda tracker: None)
    track.WANDB_RUNS.mkdir(parents=True)
    (track.WANDB_RUNS / "rl-m-0").write_text("abc123\n")
    with Tracker("rl", "m-0", 9, Path(), trackers=["wandb", "trackio"], resumed=resumed):
        pass
    wandb, trackio = asked["wandb"], asked["trackio"]
    assert (wandb["project"], wandb["name"], wandb["resume"]) == ("pirl", "rl-m-0", "allow")
    assert (wandb["id"] == "abc123") is same
    assert (track.WANDB_RUNS / "rl-m-0").read_text().strip() == wandb["id"]
    assert trackio == {"project": "pirl", "name": "rl-m-0", "resume": "allow" if same else "never"}
    (track.WANDB_RUNS / "rl-m-0").write_text("../x y")
    with Tracker("rl", "m-0", 9, Path(), trackers=["wandb"], resumed=resumed):
        assert asked["wandb"]["id"].isalnum() and len(asked["wandb"]["id"]) == 32


def test_trackio_through_accelerate(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    tracked("trackio", root, tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    with sqlite3.connect(tmp_path / "trackio/pirl.db") as database:
        found = database.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert [(name, step) for name, step, _ in found] == [("rl-m-0", step) for step in range(4)]
    assert json.loads(found[3][2]) == {"charts/success": 0.75, "time/update_seconds": 2.5}


def test_a_resumed_run_is_the_same_one_for_trackio(root: Path, tmp_path: Path) -> None:
    """One that begins anew is another of the same name."""
    pytest.importorskip("trackio")
    for resumed in (0, 4, 0):
        tracked("trackio", root, tmp_path, resumed, TRACKIO_DIR=str(tmp_path / "trackio"))
    with sqlite3.connect(tmp_path / "trackio/pirl.db") as database:
        found = database.execute("select run_id, step from metrics order by id").fetchall()
    runs = list(dict.fromkeys(run for run, _ in found))
    steps = [sorted(step for own, step in found if own == run) for run in runs]
    assert steps == [list(range(8)), list(range(4))]

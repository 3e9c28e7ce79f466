"""How a run tells of itself: curves as JSON lines, TensorBoard, a line on stdout, and a status file for `pirl status`.

Numbers that a rerun repeats bit for bit go to metrics.jsonl, wall-clock times to timing.jsonl. Loads no torch.
"""

import json
import math
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from uuid import uuid4

import numpy as np
import psutil

from pirl_core.errors import UserError
from pirl_core.files import naming, write_text
from pirl_core.readers.text import read_text
from pirl_core.training.events import EventFile

STATUS = Path(".pirl/status")
TENSORBOARD = Path(".pirl/tensorboard")
WANDB_RUNS = Path(".pirl/wandb-runs")
"""Of each run the id that wandb knows it by, so that a resumed one goes on in it."""
PROJECT = "pirl"
SECONDS_BETWEEN_LINES = 1.0
SECONDS_BETWEEN_STATUS = 0.5


class Tracker:
    """The record of one run of a stage. Metric names follow CleanRL: losses/policy_loss, charts/SPS and so on.

    folder: receives FILES, opened for append, so that a resumed run goes on where its copied lines end; None: no
    curves. resumed: the last step already logged; 0 is a fresh run. trackers: wandb, trackio, through Accelerate.
    main: False on ranks other than 0, where every method does nothing. Raises UserError for a missing tracker package.
    """

    FILES = ("metrics.jsonl", "timing.jsonl", "warnings.jsonl")

    def __init__(
        self,
        stage: str,
        name: str,
        total: int,
        folder: Path | None,
        trackers: Sequence[str] = (),
        config: dict[str, Any] | None = None,
        resumed: int = 0,
        main: bool = True,
    ) -> None:
        self.main = main
        self.total = total
        self._label = f"[{stage} {name}]"
        self._resumed = resumed
        # The clock of the ETA starts with the first step of this process: set-up and step 0 are not repeated.
        self._begun = time.monotonic()
        self._lined = self._stored = -math.inf
        self._close = ExitStack()
        if not main:
            return
        for tracker in trackers:
            _require(tracker)
        me = psutil.Process()
        self._path = STATUS / f"{stage}-{name}.json"
        self._status: dict[str, Any] = {
            "stage": stage,
            "name": name,
            "host": socket.gethostname(),
            "pid": me.pid,
            "pid_created": me.create_time(),
            "started": time.time(),
            "updated": time.time(),
            "step": resumed,
            "total": total,
            "eta_seconds": None,
            "metrics": {},
            "checkpoint_at": None,
            "checkpoint_step": None,
            "warnings": [],
            "state": "running",
            "message": "",
        }
        try:
            paths = [folder / file for file in self.FILES] if folder else []
            self._files: dict[str, IO[str]] = {}
            for path in paths:
                self._files[path.name] = path.open("a", encoding="utf-8")
                self._close.callback(_close, self._files[path.name])
            self._events = EventFile(TENSORBOARD / stage / name, resumed)
            self._close.callback(self._events.close)
            self._trackers = [_started(tracker, f"{stage}-{name}", config or {}, resumed > 0) for tracker in trackers]
            for tracker in self._trackers:
                self._close.callback(tracker.finish)
        except BaseException:
            self._close.close()
            raise
        self._store(now=True)

    def log(
        self, step: int, metrics: dict[str, float], shown: Sequence[str], timing: dict[str, float] | None = None
    ) -> None:
        """Record ``metrics`` (a rerun gives the same) and ``timing`` (wall clock) at ``step``; print ``shown``."""
        if not self.main:
            return
        everything: dict[str, float] = {}
        for file, values in (("metrics.jsonl", metrics), ("timing.jsonl", timing or {})):
            values = {key: float(value) for key, value in values.items()}
            everything |= values
            if values:
                self._append(file, {"step": step, **_finite(values)})
        self._events.scalars(step, everything)
        for tracker in self._trackers:
            tracker.log(everything, step=step)
        self._status["metrics"] |= _finite(everything)
        self._move(step)
        self._line(
            f"{step}/{self.total}", " ".join(f"{key}={everything[key]:.3g}" for key in shown if key in everything)
        )
        self._store()

    def progress(self, step: int, text: str = "", metrics: dict[str, float] | None = None) -> None:
        """Tell how far a stage without curves has come; a line at most once a second, and at the end."""
        if not self.main:
            return
        self._move(step)
        self._status["metrics"] |= _finite(metrics or {})
        text = " ".join([text, *(f"{key}={value:.3g}" for key, value in (metrics or {}).items())]).strip()
        if step == self.total or time.monotonic() - self._lined >= SECONDS_BETWEEN_LINES:
            self._line(f"{step}/{self.total}", text)
        self._store(now=step == self.total)

    def aside(self, what: str, done: int, total: int) -> None:
        """Tell how far work after the last step has come, from 0 on; a line at most once a second, and at both ends."""
        if not self.main:
            return
        if not done:
            self._begun = time.monotonic()
        left = (time.monotonic() - self._begun) / done * (total - done) if done else None
        self._status |= {"message": f"{what} {done}/{total}", "eta_seconds": left}
        if done in (0, total) or time.monotonic() - self._lined >= SECONDS_BETWEEN_LINES:
            self._line(self._status["message"], "")
        self._store(now=done in (0, total))

    def warn(self, step: int, text: str) -> None:
        """Tell everywhere that something looks wrong."""
        if not self.main:
            return
        text = " ".join(text.split())
        print(f"{self._label} warning: {text}", flush=True)
        self._append("warnings.jsonl", {"step": step, "text": text})
        self._events.text(step, "warnings", text)
        self._status["warnings"].append(text)
        self._store(now=True)

    def video(self, step: int, tag: str, frames: np.ndarray, fps: int) -> None:
        """Show frames (F, h, w, 3) uint8 in TensorBoard, as a GIF below the curves: it sorts by the names of tags."""
        if self.main:
            self._events.gif(step, f"videos/{tag}", frames, fps)

    def checkpointed(self, step: int) -> None:
        """Tell that the state after ``step`` is safe on disk."""
        if self.main:
            self._status |= {"checkpoint_at": time.time(), "checkpoint_step": step}
            self._store(now=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.main:
            return
        try:
            self._close.close()
        finally:
            self._status["eta_seconds"] = None
            if error is None:
                self._status |= {"state": "done", "message": ""}
            else:
                stopped = isinstance(error, KeyboardInterrupt | SystemExit)
                said = "" if stopped else " ".join(str(error).split()) or type(error).__name__
                self._status |= {"state": "stopped" if stopped else "failed", "message": said}
            self._store(now=True)

    def _append(self, file: str, row: dict[str, Any]) -> None:
        if file in self._files:
            with naming(Path(self._files[file].name)):
                self._files[file].write(json.dumps(row) + "\n")
                self._files[file].flush()

    def _move(self, step: int) -> None:
        """Set step and time left; it is unknown until this process has finished a step of its own."""
        done = step - self._resumed
        if done <= 0:
            self._begun = time.monotonic()
        rate = (time.monotonic() - self._begun) / done if done > 0 else None
        self._status |= {"step": step, "eta_seconds": None if rate is None else rate * max(0, self.total - step)}

    def _line(self, where: str, text: str) -> None:
        self._lined = time.monotonic()
        eta = self._status["eta_seconds"]
        parts = [self._label, where, text, "" if eta is None else f"eta={clock(eta)}"]
        print(" ".join(part for part in parts if part), flush=True)

    def _store(self, now: bool = False) -> None:
        """Write the status file, at most twice a second unless ``now``. To be watched is no reason to fail."""
        if now or time.monotonic() - self._stored >= SECONDS_BETWEEN_STATUS:
            self._stored = time.monotonic()
            self._status["updated"] = time.time()
            with suppress(OSError):
                write_text(self._path, json.dumps(self._status, ensure_ascii=False, allow_nan=False) + "\n")


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _close(file: IO[str]) -> None:
    with naming(Path(file.name)):
        file.close()


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    """JSON knows neither NaN nor infinity."""
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _require(tracker: str) -> None:
    if find_spec(tracker) is None:
        raise UserError(
            f"run.trackers = {tracker}: the package is not installed; pip install {tracker}, or take it off the list"
        )


def _started(tracker: str, run: str, config: dict[str, Any], resumed: bool) -> Any:
    """Accelerate's tracker of that name, with its run open in the project PROJECT.

    A resumed run is the one that was begun: wandb knows it by its id, trackio takes the newest of its name. Steps that
    were told after the checkpoint are told once more: wandb leaves them as they are.
    """
    from accelerate import PartialState
    from accelerate.tracking import TrackioTracker, WandBTracker

    PartialState()  # their log lines ask it which process this is
    try:
        # wandb would otherwise put a folder into the working directory.
        made: WandBTracker | TrackioTracker
        if tracker == "wandb":
            made = WandBTracker(PROJECT, name=run, dir=".pirl", id=_wandb_id(run, resumed), resume="allow")
        else:
            made = TrackioTracker(PROJECT, name=run, resume="allow" if resumed else "never")
        made.start()
        made.store_init_configuration(config)
    except Exception as error:  # no account, no network, no disk: each package has its own classes
        raise UserError(f"run.trackers = {tracker}: did not start: {' '.join(str(error).split())}") from None
    return made


def _wandb_id(run: str, resumed: bool) -> str:
    """Of the run that is resumed; a new one, kept for later, of one that begins or was not tracked so far."""
    path = WANDB_RUNS / run
    if resumed and path.is_file():
        known = read_text(path, "delete it").strip()
        if known.isalnum() and len(known) <= 64:
            return known
    fresh = uuid4().hex
    write_text(path, f"{fresh}\n")
    return fresh

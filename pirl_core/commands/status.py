"""``pirl status``: what every stage is doing, from the files that `track.Tracker` writes. Loads nothing heavy."""

import argparse
import json
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field

from pirl_core.errors import UserError
from pirl_core.report.tables import aligned
from pirl_core.stages.lock import LOCKS
from pirl_core.training.track import STATUS, clock

SUMMARY = "what every stage is doing: step, success, KL, clip fraction, time left, age of the last checkpoint"
WIDTH = 100
ORDER = ("starting", "running", "killed", "failed", "stopped", "done")
SHOWN = ("starting", "running", "killed", "failed")
RUNS = Path(".pirl/runs")
"""Below it lie the workspaces of flows whose parameters differ from params.yaml."""
# Column: format, and the metrics of which the first that is there is shown.
METRICS = {
    "success": (".2f", ("validation/success", "charts/success")),
    "return": (".0f", ("validation/return", "charts/return")),
    "loss": (".2g", ("losses/flow_matching", "losses/policy_loss")),
    "KL": (".2g", ("losses/approx_kl",)),
    "clip": (".2f", ("losses/clipfrac",)),
}
# The clock that a process's start is read from may be set by a second or so while it runs.
_CLOCK_TOLERANCE = 2.0
_MOST_BYTES = 1 << 24
Status = dict[str, Any]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e15, le=1e15)]
Count = Annotated[int, Field(ge=0, lt=2**31)]


class StatusFile(BaseModel):
    """What `track.Tracker` writes. Points in time are seconds since the epoch."""

    model_config = ConfigDict(strict=True)

    stage: str
    name: str
    host: str
    pid: Count
    pid_created: Number
    started: Number
    updated: Number
    step: Count
    total: Count
    eta_seconds: Number | None
    metrics: dict[str, Number | None]
    checkpoint_at: Number | None
    checkpoint_step: Count | None
    warnings: list[str]
    state: Literal["running", "failed", "stopped", "done"]
    message: str


def read_statuses(root: Path, now: float) -> list[Status]:
    """The stages of the repository ``root`` and of its flows' workspaces, running ones first, then the last updated.

    Adds to each status file: `updated_age` and `checkpoint_age` in seconds, `folder`, the workspace below root ('' for
    root), and the state 'killed' where the process is gone without having said so. A stage that has begun and written
    none yet is 'starting'. Raises UserError for a file that is none of ours.
    """
    found = []
    for folder in (root, *sorted(path for path in (root / RUNS).glob("*") if path.is_dir())):
        workspace = folder.relative_to(root).as_posix() if folder != root else ""
        known = {(status["stage"], status["name"]): status for status in _read(folder)}
        for started in _begun(folder):
            key = started["stage"], started["name"]
            if key not in known or known[key]["started"] < started["started"]:
                known[key] = started
        for status in known.values():
            saved = status["checkpoint_at"]
            status["folder"] = workspace
            status["updated_age"] = max(0.0, now - status["updated"])
            status["checkpoint_age"] = None if saved is None else max(0.0, now - saved)
            if status["state"] == "running" and not _alive(status):
                status |= {"state": "killed", "eta_seconds": None}
            found.append(status)
    return sorted(found, key=lambda status: (ORDER.index(status["state"]), status["updated_age"]))


def _read(folder: Path) -> list[Status]:
    """The status files of a workspace."""
    found = []
    for path in (folder / STATUS).glob("*.json"):
        try:
            # Opened without waiting: what stands there may be a pipe.
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                found.append(StatusFile.model_validate_json(file.read(_MOST_BYTES) or b"").model_dump())
        except FileNotFoundError:  # removed a moment ago
            continue
        except (OSError, ValueError):
            raise UserError(f"{path}: not a status file of this version; delete it") from None
    return found


def _begun(folder: Path) -> list[Status]:
    """Of each stage whose lock a process of this machine has taken: the status that it would write first.

    A lock still tells who had it last, so that one must have lived by then. The report writes no status of its own.
    """
    found = []
    for path in (folder / LOCKS).glob("*-*"):
        stage, _, name = path.name.partition("-")
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            taken, pid = path.stat().st_mtime, int(path.read_text(errors="replace").split(" ")[0])
            created = psutil.Process(pid).create_time()
            status = {
                "stage": stage, "name": name, "host": socket.gethostname(), "pid": pid, "pid_created": created,
                "started": taken, "updated": taken, "step": 0, "total": 0, "eta_seconds": None, "metrics": {},
                "checkpoint_at": None, "checkpoint_step": None, "warnings": [], "message": "",
                "state": "running" if stage == "report" else "starting",
            }  # fmt: skip
            if created < taken + _CLOCK_TOLERANCE and _alive(status):
                found.append(status)
    return found


def _alive(status: Status) -> bool:
    """Whether the process still runs. One on another machine cannot be asked: its word counts."""
    if status["host"] != socket.gethostname():
        return True
    try:
        process = psutil.Process(status["pid"])
        same = abs(process.create_time() - status["pid_created"]) < _CLOCK_TOLERANCE
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def render(statuses: list[Status]) -> str:
    """A table of at most WIDTH columns; below a run its message, and how many warnings it gave with the newest."""
    columns: dict[str, list[str]] = {
        "run": [f"{status['stage']}@{status['name']}" for status in statuses],
        "state": [status["state"] for status in statuses],
        "step": [f"{status['step']}/{status['total']}" if status["total"] else "–" for status in statuses],
        **{title: [_metric(status["metrics"], *how) for status in statuses] for title, how in METRICS.items()},
        "ETA": [_left(status) for status in statuses],
        "saved": [age(status["checkpoint_age"]) for status in statuses],
        "updated": [age(status["updated_age"]) for status in statuses],
    }
    columns = {title: cells for title, cells in columns.items() if any(cell != "–" for cell in cells)}
    taken = sum(2 + max(map(len, (title, *cells))) for title, cells in columns.items() if title != "run")
    columns["run"] = [_shortened(run, WIDTH - taken) for run in columns["run"]]
    lines = aligned(list(columns), list(zip(*columns.values(), strict=True))).splitlines()
    shown = lines[:2]
    for line, status in zip(lines[2:], statuses, strict=True):
        shown += [line, *(_cut(f"    {note}") for note in _notes(status))]
    return "\n".join(shown)


def _notes(status: Status) -> list[str]:
    notes = [f"in {status['folder']}"] if status["folder"] else []
    notes += [status["message"]] if status["message"] else []
    if warnings := status["warnings"]:
        said = f"{len(warnings)} warnings, newest" if len(warnings) > 1 else "warning"
        notes.append(f"{said}: {warnings[-1]}")
    return notes


def _metric(metrics: dict[str, float | None], form: str, keys: tuple[str, ...]) -> str:
    values = [metrics[key] for key in keys if key in metrics]
    if not values:
        return "–"
    return "nan" if values[0] is None else format(values[0], form)


def _left(status: Status) -> str:
    if status["state"] != "running" or status["eta_seconds"] is None:
        return "–"
    return clock(max(0.0, status["eta_seconds"] - status["updated_age"]))


def age(seconds: float | None) -> str:
    """In the largest unit of which it is at least one."""
    if seconds is None:
        return "–"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _shortened(text: str, width: int) -> str:
    """The middle left out: stage, experiment and seed stand at the ends."""
    keep = max(12, width) - 1
    return text if len(text) <= keep + 1 else f"{text[: (keep + 1) // 2]}…{text[-(keep // 2) :]}"


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def text_of(root: Path, everything: bool, as_json: bool) -> str:
    """What the command prints."""
    statuses = read_statuses(root, time.time())
    shown = [status for status in statuses if everything or status["state"] in SHOWN]
    if as_json:
        return json.dumps(shown, ensure_ascii=False)
    parts = [render(shown)] if shown else ["Nothing is running."]
    if hidden := len(statuses) - len(shown):
        parts.append(f"{hidden} more {'has' if hidden == 1 else 'have'} finished or been stopped: pirl status --all")
    return "\n".join(parts)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="also the runs that are done or were stopped")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=2.0,
        metavar="SECONDS",
        help="show it again every so many seconds (2 if left out) until Ctrl-C",
    )
    parser.add_argument("--json", action="store_true", help="a JSON list with everything that is known, for programs")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository to look at (default: this folder)")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError("give 0.1 to 86400 seconds")
    return value


def run(args: argparse.Namespace) -> None:
    if not args.root.is_dir():
        raise UserError(f"--root {args.root}: no such folder")
    with suppress(KeyboardInterrupt):
        while True:
            text = text_of(args.root, args.all, args.json)
            if args.watch and sys.stdout.isatty():
                text = f"\x1b[2J\x1b[H{text}"  # an empty screen, from its top
            print(text, flush=True)
            if not args.watch:
                return
            time.sleep(args.watch)

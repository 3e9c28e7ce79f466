"""A full disk: every writer of outputs raises an error that names a file there, and each command says it in a line."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pirl_core.data.lerobot import write_dataset
from pirl_core.envs.metaworld.facts import FACTS
from pirl_core.errors import told
from pirl_core.files import copy_tree, replace_folder, write_json, write_tensors, write_text
from pirl_core.policy.folder import save_policy
from pirl_core.training.events import EventFile
from pirl_core.training.resume import Checkpoints, link_tree
from pirl_core.training.track import Tracker
from tests.data.test_data import make_episode
from tests.report.made_up import fill, make_params
from tests.worlds import small_policy

CAMERAS = ["corner2", "gripperPOV"]
BIG = 1 << 20


def curves(disk: Path) -> None:
    (disk / "log").mkdir()
    with Tracker("rl", "x", 10, disk / "log") as tracker:
        for step in range(10_000):
            tracker.log(step, {"charts/success": 0.5}, [])


def events(disk: Path) -> None:
    file = EventFile(disk / "events", 0)
    for step in range(10_000):
        file.scalars(step, {"charts/success": 0.5})


def dataset(disk: Path) -> None:
    (disk / "data").mkdir()
    episodes = [make_episode(np.random.default_rng(i), 0, 40, size=64) for i in range(20)]
    write_dataset(disk / "data", episodes, CAMERAS, FACTS)


def folder(disk: Path) -> None:
    """What writes into an open file of its own, without a name."""
    with replace_folder(disk / "folder") as inside, (inside / "x").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(BIG))


def checkpoints(disk: Path) -> None:
    def write(inside: Path) -> None:
        link_tree(disk.parent / "source", inside / "policy")

    Checkpoints(disk / "resume", 0, None).save(1, write)


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda disk: write_text(disk / "x.md", "x" * BIG),
    "json": lambda disk: write_json(disk / "x.json", ["x" * BIG]),
    "tensors": lambda disk: write_tensors(disk / "x.safetensors", {"x": torch.zeros(BIG)}),
    "policy": lambda disk: save_policy(small_policy(vlm_width=256, vlm_layers=4), disk / "policy"),
    "copied folder": lambda disk: copy_tree(disk.parent / "source", disk / "copy"),
    "checkpoint": checkpoints,
    "curves": curves,
    "events": events,
    "dataset": dataset,
    "folder": folder,
}


@pytest.fixture
def full(small_disk: Path) -> Path:
    (small_disk.parent / "source").mkdir()
    (small_disk.parent / "source/weights").write_bytes(bytes(BIG))
    return small_disk


def leave(disk: Path, room: int) -> None:
    """Some room, so that it is the writing that fails."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "fill").write_bytes(bytes(free - room))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_told_by_the_file(writer: str, full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(full)
    (full / "policy").mkdir()
    leave(full, 100_000)
    with pytest.raises(OSError, match="No space left") as error:
        WRITERS[writer](full)
    said = re.fullmatch(r"no room for (\S+) \(No space left on device\); free some, .*", told(error.value) or "")
    assert said and (full / said[1]).is_relative_to(full) and (full / said[1]) != full, str(error.value)
    # Nothing half-written bears an output's name.
    assert not [p for p in full.rglob("*") if p.name in ("x.md", "x.json", "x.safetensors", "folder", "000000001")]


def test_another_error_goes_its_way(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        (tmp_path / "none").read_text()
    assert told(error.value) is None


def test_the_report_on_a_full_disk(full: Path) -> None:
    fill(full / "outputs", make_params(full))
    (full / "results/laptop").mkdir(parents=True)
    (full / "results/laptop/metrics.json").write_text("{}")
    leave(full, 8_000)
    command = [sys.executable, "-m", "pirl_core.stages.report"]
    environment = {**os.environ, "MPLCONFIGDIR": str(full.parent)}
    done = subprocess.run(command, cwd=full, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    said = re.fullmatch(r"pirl: report: no room for (\S+) \(No space.*\n", done.stderr)
    assert said and said[1].startswith(("results/", "outputs/report/")), done.stderr
    assert not list(full.rglob("*.partial"))

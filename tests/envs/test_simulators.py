"""What holds of every benchmark whose package and assets are here: a killed process is told in one line, and the
episodes that were finished are the same as without it."""

import hashlib
import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
import yaml

from pirl_core.data.demonstrate import Wish, demonstrations
from pirl_core.data.lerobot import DemoEpisode
from pirl_core.envs import assets
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.errors import WorkerDied
from pirl_core.facts import facts_of
from pirl_core.params.preset import preset_values
from pirl_core.params.sections import Curate, Env
from pirl_core.types import Episode
from tests.envs.test_vector_env import processes_of
from tests.stages.test_end_to_end import command


class World(NamedTuple):
    """package, and assets by their name in ``assets.ASSETS``: what it needs."""

    task: str
    shift: str
    package: str
    assets: str | None


WORLDS: dict[str, World] = {
    "metaworld": World("reach-v3", "none", "metaworld", None),
    "maniskill": World("PushCube-v1", "none", "mani_skill", None),
    "put_on_plate": World("put_carrot_on_plate", "none", "mani_skill", "maniskill"),
    "simpler": World("PutCarrotOnPlateInScene-v1", "none", "mani_skill", "maniskill"),
    "libero": World("libero_object_9", "none", "libero", "libero"),
    "calvin": World("D/turn_on_led", "random", "pybullet", "calvin"),
}
ROOM = 100_000
"""Bytes that a full disk has left: enough for a demonstration, not for four and the dataset."""


@pytest.fixture(params=WORLDS)
def env(request: pytest.FixtureRequest) -> Env:
    """Blind and short."""
    name: str = request.param
    world = WORLDS[name]
    if find_spec(world.package) is None:
        pytest.skip(f"needs {world.package}")
    if world.assets is not None and assets.missing(world.assets):
        pytest.skip(f"needs assets: python -m pirl_core.envs.assets fetch {world.assets}")
    limit = facts_of(name).task(world.task).steps or 200
    return Env(
        benchmark=name, tasks=[world.task], shift=world.shift, episode_steps=min(200, limit), cameras=[], image_size=64,
        fast_render=True, object_state=True, keys={}, frame_stack=1, sim_backend="cpu",
    )  # fmt: skip


@pytest.mark.slow
def test_a_killed_process_loses_no_finished_demonstration(env: Env) -> None:
    curate = Curate(
        dataset=None, dataset_revision=None, columns={}, seed=0, episodes_per_task=8, still_frames=0, action_noise=0.0,
        max_attempts_per_episode=5, expert_return=None, expert_steps=1, keep_per_task=None,
        keep_episodes=None, real=None,
    )  # fmt: skip
    wishes = [Wish(env.tasks[0], number) for number in range(8)]
    [alone] = demonstrations(env, curate, wishes[:1], workers=1)
    shown: list[DemoEpisode] = []

    def show_and_kill() -> None:
        for episode in demonstrations(env, curate, wishes, workers=1):
            shown.append(episode)
            for process in psutil.Process().children():
                process.kill()

    with pytest.raises(WorkerDied, match="made demonstrations was killed by SIGKILL; if memory"):
        show_and_kill()
    assert 1 <= len(shown) < len(wishes)
    for ours, theirs in zip(shown[0], alone, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.slow
def test_a_killed_worker_is_named(env: Env) -> None:
    task = env.tasks[0]
    with VectorEnv(env, 2, 2) as envs:
        envs.reset([0, 1], [Episode(task, 1, env.shift), Episode(task, 2, env.shift)])
        still = np.zeros((2, 1, len(facts_of(env.benchmark).action)), np.float32)
        envs.step([0, 1], still)
        processes = processes_of(envs)
        processes[0].kill()
        with pytest.raises(WorkerDied, match=f"worker 0 was killed by SIGKILL while it ran {task}"):
            envs.step([0, 1], still)
        assert all(process.poll() is not None for process in processes)


@pytest.mark.slow
def test_a_full_disk_loses_no_finished_demonstration(env: Env, root: Path, tmp_path: Path, small_disk: Path) -> None:
    scale = "laptop" if env.benchmark == "metaworld" else env.world
    params = preset_values(scale)
    experiment = next(iter(params["experiments"]))
    params["env"] = env.model_dump()
    params["curate"]["episodes_per_task"] = 4
    params["run"]["checkpoint_minutes"] = 0
    params["evaluate"]["splits"] = {"id": {"tasks": None, "shift": env.shift, "episodes_per_task": 1}}

    def curate(folder: Path) -> subprocess.CompletedProcess[str]:
        words = command("curate", experiment=experiment)
        variables = {**os.environ, "PYTHONPATH": str(root), "PIRL_WORKERS": "1"}
        return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)

    def files(folder: Path) -> dict[str, str]:
        found = (path for path in (folder / "outputs/curate").rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    for folder in (tmp_path, small_disk):
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
    assert curate(tmp_path).returncode == 0
    fill = small_disk / "fill"
    fill.write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - ROOM))
    full = curate(small_disk)
    assert full.returncode == 2, full.stderr
    assert re.fullmatch(r"pirl: curate: no room(| for \S+) \(No space left on device\); .*\n", full.stderr), full.stderr
    assert files(small_disk) == {}
    finished = [path for path in (small_disk / ".pirl/resume/curate").rglob("*") if path.name.isdecimal()]
    assert finished
    fill.unlink()
    again = curate(small_disk)
    assert again.returncode == 0, again.stderr
    assert files(small_disk) == files(tmp_path)

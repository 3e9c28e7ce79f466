"""Demonstrations by real experts in the real simulator."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import pytest

from pirl_core import seeds
from pirl_core.data.curate import make_dataset
from pirl_core.data.demonstrate import Demonstrator, Wish, demonstrations
from pirl_core.data.lerobot import read_dataset
from pirl_core.envs.metaworld.simulator import MetaWorldEnv
from pirl_core.envs.opening import settings_of
from pirl_core.errors import UserError
from pirl_core.facts import facts_of
from pirl_core.params.file import load_params, resolve
from pirl_core.params.sections import Curate, Env
from pirl_core.training.resume import Checkpoints
from pirl_core.training.track import Tracker
from pirl_core.types import Episode
from tests import ROOT
from tests.flows.workspace import seconds_to_end

TASKS = ["button-press-topdown-v3", "reach-v3"]
ENV = Env(
    benchmark="metaworld",
    shift="none",
    tasks=TASKS,
    episode_steps=150,
    cameras=["corner2"],
    image_size=32,
    fast_render=True,
    object_state=True,
    keys={},
    frame_stack=1,
    sim_backend="cpu",
)
CURATE = Curate(
    dataset=None, dataset_revision=None, columns={}, expert_return=None, expert_steps=1, seed=3,
    episodes_per_task=3, still_frames=0, action_noise=0.1,
    max_attempts_per_episode=5, keep_per_task=2, keep_episodes=None, real=None,
)  # fmt: skip


pytestmark = pytest.mark.filterwarnings("ignore:Constant")


def make(curate: Curate, folder: Path, env: Env = ENV, workers: int | None = None) -> None:
    """The dataset, with nothing left over from another call."""
    with TemporaryDirectory() as scratch, chdir(scratch), Tracker("curate", "test", 1, None) as tracker:
        make_dataset(env, curate, folder, Checkpoints(Path("store"), 0, kept=None), tracker, workers)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curate") / "metaworld"
    make(CURATE, folder, workers=2)
    return folder


def test_every_demonstration_succeeds_in_time(dataset: Path) -> None:
    frames = read_dataset(dataset, ["corner2"], object_state=True)
    lengths = np.bincount(frames.episode)
    assert len(lengths) == 4
    assert lengths.max() <= ENV.episode_steps
    assert len(set(frames.tasks)) == 2
    assert np.abs(frames.actions).max() <= 1
    # Something moves in every episode, and the picture shows it.
    for episode in range(4):
        images = frames.images[frames.episode == episode].astype(float)
        assert np.abs(images[0] - images[-1]).mean() > 1


def test_replaying_the_recorded_seed_gives_the_recorded_start(dataset: Path) -> None:
    frames = read_dataset(dataset, ["corner2"], object_state=True)
    origins = json.loads((dataset / "meta/curation.json").read_text())["episodes"]
    for index, origin in enumerate(origins):
        assert seeds.use_of(origin["env_seed"]) == "demonstration"
        slot = MetaWorldEnv(origin["task"], settings_of(ENV))
        first = np.flatnonzero(frames.episode == index)[0]
        assert np.array_equal(slot.reset(Episode(origin["task"], origin["env_seed"])), frames.state[first])


def test_bytes_do_not_depend_on_workers_or_on_what_else_is_kept(dataset: Path, tmp_path: Path) -> None:
    make(CURATE, tmp_path / "alone", workers=1)
    for path in dataset.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "alone" / path.relative_to(dataset)).read_bytes()
    chosen = CURATE.model_copy(update={"keep_per_task": None, "keep_episodes": [4, 1]})
    make(chosen, tmp_path / "chosen", workers=2)
    # Ids 1 and 4 are the second of the first task and of the second task: rows 1 and 3 of the set with two of each.
    some = read_dataset(tmp_path / "chosen", ["corner2"], object_state=True)
    full = read_dataset(dataset, ["corner2"], object_state=True)
    same = np.isin(full.episode, [1, 3])
    assert np.array_equal(some.images, full.images[same])
    assert np.array_equal(some.actions, full.actions[same])


def test_noise_is_executed_but_not_recorded() -> None:
    """The label is what the expert asks in the state it is in, so equal starts have equal first labels, not paths."""
    wish = Wish("reach-v3", 0)
    clean, noisy = (
        Demonstrator(ENV, CURATE.model_copy(update={"action_noise": noise})).make(wish) for noise in (0.0, 0.3)
    )
    assert clean is not None
    assert noisy is not None
    assert np.array_equal(clean.actions[0], noisy.actions[0])
    assert not np.array_equal(clean.state[1], noisy.state[1])


def test_still_frames_follow_the_success_they_show() -> None:
    wish = Wish("reach-v3", 0)
    plain, still = (Demonstrator(ENV, CURATE.model_copy(update={"still_frames": n})).make(wish) for n in (0, 4))
    assert plain is not None and still is not None
    steps = len(plain.actions)
    assert len(still.actions) == steps + 4
    assert np.array_equal(still.actions[:steps], plain.actions)
    assert np.array_equal(still.actions[steps:], np.tile([0, 0, 0, plain.actions[-1, -1]], (4, 1)))
    assert (still.state[steps:] == still.state[steps]).all() and (still.images[steps:] == still.images[steps]).all()
    assert not np.array_equal(still.state[steps], still.state[steps - 1])  # it is the state after the last action
    assert still.success.tolist() == [False] * (steps - 1) + [True] * 5
    assert still.rewards.sum() == plain.rewards.sum()


def test_a_failing_expert_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    short = ENV.model_copy(update={"episode_steps": 2})
    with pytest.raises(UserError, match=r"button-press-topdown-v3.*5 times.*max_attempts_per_episode"):
        make(CURATE, tmp_path / "out", short, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_unknown_episode_ids_cost_nothing(tmp_path: Path) -> None:
    chosen = CURATE.model_copy(update={"keep_per_task": None, "keep_episodes": [6]})
    with pytest.raises(UserError, match="no episode 6"):
        make(chosen, tmp_path / "out")


CURATING = """\
from pirl_core.data.demonstrate import Wish, demonstrations
from tests.data.test_curate import CURATE, ENV, TASKS
if __name__ == "__main__":
    made = demonstrations(ENV, CURATE, [Wish(TASKS[0], number) for number in range(100)], workers=2)
    print(next(made).task, flush=True)
    input()
"""


def test_workers_end_with_a_killed_parent_that_read_nothing_more(tmp_path: Path) -> None:
    """The first demonstration is more than a pipe holds, so both workers are soon writing or waiting to."""
    (tmp_path / "curating.py").write_text(CURATING)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "curating.py")], env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None and TASKS[0].encode() in process.stdout.readline()
            process.send_signal(signal.SIGSTOP)
            children = psutil.Process(process.pid).children()
            before: list[float] = []
            while before != (spent := [sum(child.cpu_times()[:2]) for child in children]):
                before = spent
                time.sleep(1)
        finally:
            process.kill()
        assert seconds_to_end(children, 10) < 10


@pytest.mark.slow
def test_the_smoke_scale_has_room_for_the_expert_of_every_task(preset: Path) -> None:
    """As many demonstrations as it asks for, in its steps and attempts: another task there fails for another reason."""
    run = resolve(load_params(preset), "metaworld")
    tasks = list(facts_of("metaworld").tasks)
    env = run.env.model_copy(update={"tasks": tasks, "cameras": [], "object_state": True})
    wishes = [Wish(task, number) for task in tasks for number in range(run.curate.episodes_per_task)]
    assert len(list(demonstrations(env, run.curate, wishes))) == len(wishes)

"""Episodes that were played, written as a dataset: what they show is what happened, and it can be learnt from."""

import io
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from accelerate.state import AcceleratorState

from pirl_core import seeds
from pirl_core.data.curate import make_dataset
from pirl_core.data.lerobot import Frames, read_dataset
from pirl_core.envs.calvin.facts import FACTS as CALVIN
from pirl_core.envs.contract import Settings
from pirl_core.envs.vector import replay, slots
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.evaluation.evaluate import Outcome, run_episodes
from pirl_core.evaluation.rollouts import Heard, kept_line, write_rollouts
from pirl_core.params.sections import Env, Record, Rl, Supervision
from pirl_core.rl import collect, train
from pirl_core.stages import rl
from pirl_core.training.resume import Checkpoints
from pirl_core.training.track import Tracker
from pirl_core.types import Episode, Observation
from tests.data.test_curate import CURATE
from tests.params import probes, walk

ENV = Env(
    benchmark="metaworld", shift="none", tasks=["reach-v3", "button-press-topdown-v3"], episode_steps=60,
    cameras=["corner2"], image_size=32, fast_render=True, object_state=True, keys={}, frame_stack=1, sim_backend="cpu",
)  # fmt: skip
EPISODES = [
    Episode(task, seeds.evaluation_seed(0, task, number), "none", number) for task in ENV.tasks for number in range(3)
]


def player(observation: Observation, keys: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Chunks of four steps, with noise, beyond the range of actions too: to the goal, which is all that reach asks."""
    towards = observation.state[:, -3:] - observation.state[:, :3]
    noise = np.stack([np.random.default_rng(key).normal(0, 0.3, (4, 4)) for key in keys])
    noise[..., :3] += 20 * towards[:, None]
    return np.asarray(noise, np.float32)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Outcome]]:
    """The episodes with what came of them, recorded by one worker and by two, and heard while they were played."""
    home = tmp_path_factory.mktemp("rollouts")
    with Tracker("evaluate", "test", 1, None) as tracker, redirect_stdout(io.StringIO()):
        for workers in (1, 2):
            with VectorEnv(ENV, 4, workers) as envs:
                heard = Heard(envs)
                outcomes = run_episodes(player, heard, EPISODES)
                same(sorted(heard.taken(), key=lambda outcome: EPISODES.index(outcome.episode)), outcomes)
                assert heard.taken() == []
                kinds: tuple[Record, ...] = ("all", "success")
                for which in kinds:
                    count = write_rollouts(envs, ENV, outcomes, which, home / str(workers) / which, tracker)
                    assert count == (6 if which == "all" else sum(outcome.success for outcome in outcomes))
    return home, outcomes


def same(one: list[Outcome], other: list[Outcome]) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a.episode, a.success, a.steps) == (b.episode, b.success, b.steps)
        assert np.array_equal(a.actions, b.actions) and a.reward == pytest.approx(b.reward)


def test_what_is_written_is_what_happened(played: tuple[Path, list[Outcome]]) -> None:
    """Actions as the simulator took them; the frames are those of a simulator that is stepped by them."""
    home, outcomes = played
    assert 0 < sum(outcome.success for outcome in outcomes) < 6
    frames = read_dataset(home / "1/all", ["corner2"], object_state=True)
    actions = np.concatenate([outcome.actions for outcome in outcomes])
    assert np.abs(actions).max() > 1 and np.array_equal(frames.actions, actions.clip(-1, 1))
    assert np.array_equal(np.bincount(frames.episode), [outcome.steps for outcome in outcomes])
    table = pq.read_table(next((home / "1/all").glob("data/*/*.parquet")))
    solved = np.array(table["next.success"].to_pylist())
    for number, outcome in enumerate(outcomes):
        mine = frames.episode == number
        assert solved[mine].any() == solved[mine][-1] == outcome.success
        assert np.sum(table["next.reward"].to_numpy()[mine]) == pytest.approx(outcome.reward, rel=1e-5)
        settings = Settings("metaworld", 60, ["corner2"], 32, True, True, "cpu")
        for at, (simulator, _) in enumerate(replay.replay(settings, outcome.episode, outcome.actions[:5])):
            if at < 5:
                assert np.array_equal(frames.state[mine][at], simulator.state())
                assert np.array_equal(frames.images[np.flatnonzero(mine)[at]], simulator.images())


def test_bytes_do_not_depend_on_workers(played: tuple[Path, list[Outcome]]) -> None:
    home, _ = played
    for path in (path for path in (home / "1").rglob("*") if path.is_file()):
        assert path.read_bytes() == (home / "2" / path.relative_to(home / "1")).read_bytes()


def test_own_successes_are_demonstrations(
    played: tuple[Path, list[Outcome]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rejection sampling: SFT learns from what its policy solved; starts of an evaluation are told."""
    home, outcomes = played
    monkeypatch.chdir(tmp_path)
    solved = [outcome for outcome in outcomes if outcome.success]
    env = ENV.model_copy(update={"tasks": sorted({outcome.episode.task for outcome in solved})})
    frames = curated(env, str(home / "1/success"))
    assert np.array_equal(frames.actions, np.concatenate([outcome.actions.clip(-1, 1) for outcome in solved]))
    source = read_dataset(home / "1/success", ["corner2"], object_state=False)
    assert np.array_equal(np.asarray(frames.images), np.asarray(source.images))
    assert np.array_equal(frames.state, source.state) and frames.instructions == source.instructions
    [told] = [note for note in noted()["notes"] if "starts" in note]
    assert told.startswith(f"{len(solved)} of {len(solved)} episodes were played from starts of an evaluation")


def curated(env: Env, dataset: str) -> Frames:
    with Tracker("curate", "test", 1, None) as tracker, redirect_stdout(io.StringIO()):
        changes = {"dataset": dataset, "episodes_per_task": 9, "keep_per_task": None}
        store = Checkpoints(Path("store"), 0, kept=None)
        make_dataset(env, CURATE.model_copy(update=changes), Path("made"), store, tracker)
    return read_dataset(Path("made"), env.cameras, object_state=False)


def noted() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("made/meta/curation.json").read_text())
    return content


class Chain:
    """A sequence of two subtasks: the sentence changes when the first number of the state has reached 2."""

    def reset(self, episode: Episode) -> None:
        self.x = 0

    def instruction(self) -> str:
        return "one" if self.x < 2 else "two"

    def images(self) -> np.ndarray:
        return np.full((1, 32, 32, 3), self.x, np.uint8)

    def state(self) -> np.ndarray:
        return np.full(39, self.x, np.float32)

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        self.x += 1
        return float(self.x in (2, 4)), self.x == 4, False

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("steps", "success"), [(1, [False]), (3, [True, False]), (4, [True, True])])
def test_a_sequence_is_an_episode_for_each_sentence(
    steps: int, success: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "open_simulator", lambda *_: Chain())
    settings = Settings("calvin", 9, ["static"], 32, True, False, "cpu")
    actions = np.arange(steps * len(CALVIN.action), dtype=np.float32).reshape(steps, -1)
    parts = replay.record_episode(settings, replay.Take(Episode("D/sequence", 5), actions))
    assert [part.instruction for part in parts] == ["one", "two"][: len(success)]
    assert [bool(part.success[-1]) for part in parts] == success and not any(p.success[:-1].any() for p in parts)
    assert np.array_equal(np.concatenate([part.actions for part in parts]), actions)
    assert [x for part in parts for x in part.state[:, 0]] == list(range(steps))
    assert sum(part.rewards.sum() for part in parts) == steps // 2


def test_an_interrupted_run_keeps_the_same_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of its first iteration are remembered with the checkpoint."""
    monkeypatch.setattr(slots, "VectorEnv", walk.Walk)
    section = Rl.model_validate(probes.BASE["Rl"] | {"record": "all"})
    calm = Supervision.model_validate(probes.BASE["Supervision"] | {"checkpoint_minutes": 0})
    made, collected = [], collect.collect
    for interrupted in (False, True):
        home = tmp_path / str(interrupted)
        home.mkdir()
        with chdir(home):
            probes.small_start("e-sft-0")
            job = probes.job("rl", supervision=calm, env=probes.BLIND, rl=section)
            if interrupted:
                monkeypatch.setattr(train, "collect", interrupting(collected))
                with pytest.raises(KeyboardInterrupt):
                    rl.run(job)
                assert not Path("outputs/rl").is_dir() or not any(Path("outputs/rl").iterdir())
                monkeypatch.setattr(train, "collect", collected)
            AcceleratorState._reset_state(reset_partial_state=True)
            rl.run(job)
            made.append([pair for pair in probes.everything(Path("outputs")) if "rollouts" in pair[0]])
            assert not Path("outputs/rl/e-m-0/played").exists()
            assert pq.read_metadata("outputs/rl/e-m-0/rollouts/meta/episodes/chunk-000/file-000.parquet").num_rows == 16
    assert made[0] == made[1] != []


def interrupting(collected: Callable[..., Any]) -> Callable[..., Any]:
    def play(*given: Any) -> Any:
        if (0, 1) in given:
            raise KeyboardInterrupt
        return collected(*given)

    return play


@pytest.mark.skipif(
    "LEROBOT_PYTHON" not in os.environ,
    reason="LEROBOT_PYTHON names no Python 3.12 that has lerobot[async,dataset]==0.6.1",
)
def test_lerobots_own_reader_opens_it(played: tuple[Path, list[Outcome]], root: Path) -> None:
    """See ``tests/data/with_lerobot.py``."""
    import hashlib

    home, _ = played
    frames = read_dataset(home / "1/all", ["corner2"], object_state=True)
    done = subprocess.run(
        [os.environ["LEROBOT_PYTHON"], "-m", "tests.data.with_lerobot", "read", str(home / "1/all")],
        env={**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["episodes"], found["fps"], found["sentences"]) == (6, 80, frames.instructions)
    wanted = {"observation.images.corner2": np.asarray(frames.images), "action": frames.actions}
    wanted["observation.environment_state"] = frames.state
    for name, values in wanted.items():
        assert found["columns"][name] == hashlib.sha256(values.tobytes()).hexdigest(), name


def test_failures_among_what_is_kept_are_told() -> None:
    """Where episodes can fail, and are kept all the same."""
    played = [Outcome(Episode("a", n), n == 1, 3, 0.0, np.zeros((3, 1))) for n in range(3)]
    assert kept_line(1, played, "success", "success") == "1 of 3 episodes kept"
    told = "3 of 3 episodes kept; 2 failed, and count as demonstrations where this is curate.dataset"
    assert kept_line(3, played, "all", "success") == told
    assert kept_line(3, played, "all", "return") == "3 of 3 episodes kept"

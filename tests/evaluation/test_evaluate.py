"""The frozen protocol: an outcome belongs to policy and episode, whatever runs beside it."""

import io
import json
from pathlib import Path
from threading import Event, Lock
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from pirl_core import seeds
from pirl_core.data.demonstrate import Wish
from pirl_core.envs.opening import settings_of
from pirl_core.envs.vector.replay import replay
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.evaluation.evaluate import Outcome, mean_score, run_episodes, split_episodes, validation_episodes
from pirl_core.evaluation.players import deterministic
from pirl_core.evaluation.videos import EVERY, SIZE, Filmed, write_videos
from pirl_core.params.file import resolve
from pirl_core.params.preset import load_preset
from pirl_core.params.sections import Env
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.rl.rollout import play
from pirl_core.rl.train import iteration_episodes
from pirl_core.training.gif import quantized
from pirl_core.training.track import Tracker
from pirl_core.types import ChunkResult, Episode, Observation
from tests.worlds import small_policy

ENV = Env(
    benchmark="metaworld",
    shift="none",
    tasks=["reach-v3", "handle-press-v3"],
    episode_steps=23,  # no multiple of the chunk
    cameras=["corner2"],
    image_size=32,
    fast_render=True,
    object_state=True,
    keys={},
    frame_stack=1,
    sim_backend="cpu",
)
EPISODES = [
    Episode(task, seeds.evaluation_seed(0, task, index), shift)
    for task in ENV.tasks
    for index, shift in enumerate(("none", "none", "visual", "position"))
]


def random_policy() -> FlowPolicy:
    """Its chunks depend on everything it sees, and tend forward and down, so that it presses some handles."""
    sizes: dict[str, Any] = {"state_dim": 39, "action_dim": 4, "text_length": 12}
    policy = small_policy(horizon=6, replan=5, **sizes)
    policy.action_center.copy_(torch.tensor([0.0, 0.3, -0.9, 0.0]))
    return policy


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    torch.set_num_threads(1)
    with VectorEnv(ENV, 3, 1) as envs:
        return run_episodes(deterministic(random_policy()), envs, EPISODES)


@pytest.mark.parametrize(("num_envs", "workers", "groups", "order"), [(8, 2, 2, 1), (2, 1, 1, -1)])
def test_outcomes_depend_on_nothing_else(
    num_envs: int, workers: int, groups: int, order: int, outcomes: list[Outcome]
) -> None:
    """Not on how many run side by side, in which process, in how many groups, or in which order."""
    with VectorEnv(ENV, num_envs, workers, groups) as envs:
        others = run_episodes(deterministic(random_policy()), envs, EPISODES[::order])[::order]
    for one, other in zip(outcomes, others, strict=True):
        assert (one.episode, one.success, one.steps, one.reward) == other[:4]
        # A batch of another size adds in another order; the simulator hardly enlarges that in so few steps.
        np.testing.assert_allclose(one.actions, other.actions, atol=1e-5)


def test_groups_change_no_bit_of_outcomes_whose_forwards_have_equal_sizes() -> None:
    """One row each, of one group and of three."""
    player = deterministic(random_policy())
    with VectorEnv(ENV, 1, 1) as alone, VectorEnv(ENV, 3, 2, groups=3) as side_by_side:
        for one, other in zip(
            *(run_episodes(player, envs, EPISODES[:4]) for envs in (alone, side_by_side)), strict=True
        ):
            assert one[:4] == other[:4]
            assert one.actions.tobytes() == other.actions.tobytes()


def test_outcomes_say_what_happened(outcomes: list[Outcome]) -> None:
    """Recorded actions are all that was executed, and replay to the same end."""
    assert [outcome.episode for outcome in outcomes] == EPISODES
    assert 0 < mean_score(outcomes, "success") < 1
    for outcome in outcomes:
        assert outcome.actions.shape == (outcome.steps, 4)
        assert outcome.steps <= ENV.episode_steps and (outcome.success or outcome.steps == ENV.episode_steps)
        assert outcome.reward == outcome.success
        solved = [success for _, success in replay(settings_of(ENV), outcome.episode, outcome.actions)]
        assert len(solved) == 1 + outcome.steps
        assert solved == [False] * outcome.steps + [outcome.success]


class Recorder:
    """Episodes of given lengths (in decisions) that end by success or by the clock; it refuses what a simulator would.

    seed: index of the episode. The observation's state holds (episode, decision), so that rows cannot be mixed up.
    """

    def __init__(self, num_envs: int, groups: int, lengths: list[int], wins: list[bool]) -> None:
        self.num_envs, self.groups = num_envs, groups
        self.busy = Lock()
        self.lengths, self.wins = lengths, wins
        self.slots: dict[int, list[int]] = {}
        self.started: list[int] = []
        self.executed: list[tuple[int, int, float]] = []

    def _observe(self, slots: list[int]) -> Observation:
        state = np.array([self.slots[slot] for slot in slots], np.float32)
        return Observation(np.zeros((len(slots), 0, 0, 0, 3), np.uint8), state, [f"do {e:.0f}" for e, _ in state])

    def reset(self, slots: list[int], episodes: list[Episode]) -> Observation:
        assert self.busy.acquire(blocking=False), "asked for two things at once"
        for slot, episode in zip(slots, episodes, strict=True):
            assert 0 <= slot < self.num_envs
            assert slot not in self.slots or self._over(slot), "restarted before its end"
            self.slots[slot] = [episode.seed, 0]
            self.started.append(episode.seed)
        self.busy.release()
        return self._observe(slots)

    def _over(self, slot: int) -> bool:
        episode, decision = self.slots[slot]
        return decision == self.lengths[episode]

    def step(self, slots: list[int], actions: np.ndarray) -> ChunkResult:
        assert self.busy.acquire(blocking=False), "asked for two things at once"
        assert slots and len(set(slots)) == len(slots) == len(actions)
        for slot, action in zip(slots, actions, strict=True):
            assert not self._over(slot), "stepped after its end"
            self.executed.append((*self.slots[slot], float(action[0, 0])))  # type: ignore[arg-type]
            self.slots[slot][1] += 1
        over = np.array([self._over(slot) for slot in slots])
        won = np.array([self.wins[self.slots[slot][0]] for slot in slots])
        steps = np.full(len(slots), actions.shape[1])
        self.busy.release()
        return ChunkResult(self._observe(slots), np.where(over & won, 1.0, 0.0), over & won, over & ~won, steps)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_play_plays_each_episode_once_to_its_end(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=12))
    wins = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    envs = Recorder(data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3)), lengths, wins)
    limits: list[tuple[int, int]] = []

    def decide(observation: Observation, episode: np.ndarray, decision: np.ndarray) -> np.ndarray:
        assert np.array_equal(observation.state, np.stack([episode, decision], 1))
        assert observation.instructions == [f"do {index}" for index in episode]
        return np.tile((100 * episode + decision)[:, None, None], (1, 2, 1)).astype(np.float32)

    def at_time_limit(observation: Observation, episode: np.ndarray, decision: np.ndarray) -> None:
        assert np.array_equal(observation.state, np.stack([episode, decision + 1], 1))
        limits.extend(zip(episode.tolist(), decision.tolist(), strict=True))

    steps = play(envs, [Episode("any", index) for index in range(len(lengths))], decide, at_time_limit)
    wanted = [(e, d) for e, length in enumerate(lengths) for d in range(length)]
    assert sorted(envs.started) == list(range(len(lengths)))
    assert sorted(envs.executed) == [(e, d, 100.0 * e + d) for e, d in wanted]
    assert [(step.episode, step.decision) for step in steps] == wanted
    ends = [(e, d) for e, d in wanted if d == lengths[e] - 1]
    assert [(s.episode, s.decision) for s in steps if s.terminated or s.truncated] == ends
    assert [s.episode for s in steps if s.terminated] == [e for e, won in enumerate(wins) if won]
    assert sorted(limits) == [(e, d) for e, d in ends if not wins[e]]


def test_of_two_groups_one_is_simulated_while_the_policy_decides_for_the_other() -> None:
    """The simulator answers the first group only once the policy has been asked for the second, which would never be in
    turns; where an episode fails, the failure is told."""
    asked = Event()

    class Patient(Recorder):
        def step(self, slots: list[int], actions: np.ndarray) -> ChunkResult:
            assert asked.wait(30), "the policy waits for the simulator"
            if actions[0, 0, 0] == 1:
                raise RuntimeError("the arm broke")
            return super().step(slots, actions)

    def decide(observation: Observation, episode: np.ndarray, decision: np.ndarray) -> np.ndarray:
        if 1 in episode:
            asked.set()
        return np.full((len(episode), 1, 1), max(decision), np.float32)

    episodes = [Episode("any", 0), Episode("any", 1)]
    assert len(play(Patient(2, 2, [1, 1], [True, True]), episodes, decide, None)) == 2
    with pytest.raises(RuntimeError, match="the arm broke"):
        play(Patient(2, 2, [1, 2], [True, True]), episodes, decide, None)


def test_no_seed_serves_two_purposes() -> None:
    """Of all starts of the laptop scale: demonstrations, every RL iteration, validation and each evaluation set."""
    params = load_preset("laptop")
    for experiment in params.experiments:
        run = resolve(params, experiment)
        curate, training = run.curate, params.seeds
        wishes = [Wish(task, number) for task in run.env.tasks for number in range(curate.episodes_per_task)]
        found = {
            "demonstrations": {
                seeds.demo_seed(curate.seed, wish.task, wish.number, attempt)
                for wish in wishes
                for attempt in range(curate.max_attempts_per_episode)
            },
            "training": {
                episode.seed
                for seed in training
                for method in params.methods
                for rl in [resolve(params, experiment, method).rl]
                for iteration in range(rl.iterations)
                for episode in iteration_episodes(list(run.env.tasks), run.env.shift, rl, seed, iteration)
            },
            "validation": {
                episode.seed
                for seed in training
                for episode in validation_episodes(run.env, seed, run.rl.validation_episodes_per_task)
            },
            "evaluation": {
                episode.seed for name in run.evaluate.splits for episode in split_episodes(run.env, run.evaluate, name)
            },
        }
        total = sum(len(group) for group in found.values())
        assert len(set().union(*found.values())) == total > 1000
        # Within an evaluation set no start comes twice either.
        for name in run.evaluate.splits:
            episodes = split_episodes(run.env, run.evaluate, name)
            assert len(set(episodes)) == len(episodes)


def videos(filmed: list[Filmed], workers: int, folder: Path) -> dict[str, bytes]:
    """What is written of them by name; an episode still runs when filming begins."""
    with VectorEnv(ENV, 2, workers) as envs, Tracker("evaluate", "m", len(EPISODES), None) as tracker:
        envs.reset([1], EPISODES[:1])
        write_videos(envs, filmed, folder, tracker)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_videos_do_not_depend_on_the_number_of_workers(
    outcomes: list[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    filmed = [Filmed("id", outcome) for outcome in outcomes]
    one, two = videos(filmed, 1, tmp_path / "one"), videos(filmed, 2, tmp_path / "two")
    assert one == two
    listed = json.loads(one["videos.json"])
    assert [entry["episode"] for entry in listed] == [episode.seed for episode in EPISODES]
    for entry, outcome in zip(listed, outcomes, strict=True):
        with Image.open(io.BytesIO(one[entry["file"]])) as gif:
            # Equal frames are one, which is shown for longer: the picture of the start and each fourth, and the last.
            assert gif.size == (SIZE, SIZE)
            assert 1 < len(list(ImageSequence.Iterator(gif))) <= 2 + outcome.steps // EVERY
    told = [line for line in capsys.readouterr().out.splitlines() if "videos" in line]
    assert told[0] == "[evaluate m] videos 0/8"
    assert told[-1] == "[evaluate m] videos 8/8 eta=0:00"


def test_no_video_is_shown_that_ends_otherwise(
    outcomes: list[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an episode may that a GPU simulates again, among others than before."""
    monkeypatch.chdir(tmp_path)
    told = outcomes[0]._replace(success=not outcomes[0].success)
    written = videos([Filmed("id", told), Filmed("id", outcomes[1])], 1, tmp_path / "videos")
    (listed,) = json.loads(written["videos.json"])
    assert written.keys() == {listed["file"], "videos.json"}
    assert listed["success"] == outcomes[1].success
    said = capsys.readouterr().out
    assert "simulated again it ended otherwise" in said
    assert "videos 2/2" in said


def test_videos_keep_the_colour_of_a_small_thing() -> None:
    """Red and magenta blocks of a thousandth of the picture, on wood, in every frame."""
    rng = np.random.default_rng(0)
    wood = rng.normal([120, 80, 50], 25, (6, 160, 160, 3)).clip(0, 255).astype(np.uint8)
    wood[:, 20:25, 40:45], wood[:, 90:95, 60:65] = (239, 0, 0), (239, 0, 239)
    for frame in quantized(wood):
        shown = np.asarray(frame.convert("RGB")).astype(int)
        assert np.abs(shown[20:25, 40:45] - (239, 0, 0)).max() < 24
        assert np.abs(shown[90:95, 60:65] - (239, 0, 239)).max() < 24

"""Sequences for training: drawn by the published rules, played through RL's rollout with a stand-in for the oracle."""

from typing import Any

import numpy as np
import pytest

from pirl_core.data.curate import dataset_size, shown_tasks
from pirl_core.envs.calvin import sequences as module
from pirl_core.envs.calvin.facts import FACTS, SCRIPTED
from pirl_core.envs.calvin.sequences import Sequence, conditions, draw_other, sequences
from pirl_core.envs.calvin.subtasks import SUBTASKS, follow
from pirl_core.envs.vector.worker import Slots
from pirl_core.rl.collect import advantages
from pirl_core.rl.rollout import Step, play
from pirl_core.types import ChunkResult, Episode, Observation
from tests.data.test_recorded import CURATE
from tests.data.test_recorded_videos import CALVIN
from tests.envs.calvin.test_calvin import SETTINGS, needs_clone
from tests.rl.test_rl import rl_params

TASK = "A/sequence"
LIMIT, CHUNK, EVERY = 9, 5, 7
"""Of a subtask, actions; actions of a chunk; after so many the stand-in says that a subtask is solved."""


def test_a_drawn_sequence_can_be_done_and_is_none_of_the_published() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_other(rng) for _ in range(8)]
    for start, names in drawn:
        assert start in conditions() and len(names) == 5
        assert len({SUBTASKS[name].category for name in names}) == 5
        condition: Any = start
        for name in names:
            condition = follow(condition, name)
            assert condition is not None
    assert len({(*one.condition.values(), *one.subtasks) for one in drawn}) == 8
    assert not any(one in sequences() for one in drawn)


def test_one_that_evaluation_has_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = draw_other(np.random.default_rng(1))
    monkeypatch.setattr(module, "sequences", lambda: (first,))
    second = draw_other(np.random.default_rng(1))
    assert isinstance(second, Sequence) and second != first


def test_a_script_shows_a_sequence_in_parts() -> None:
    env = CALVIN.model_copy(update={"tasks": [TASK, "B/sequence", "A/open_drawer"]})
    assert shown_tasks(env) == [f"{scene}/{name}" for scene in "AB" for name in SCRIPTED]
    assert dataset_size(env, CURATE.model_copy(update={"dataset": None, "episodes_per_task": 3})) == 6 * len(SCRIPTED)
    assert {task.length: len(task.parts) for task in FACTS.tasks.values()} == {1: 0, 5: len(SUBTASKS)}


class Here:
    """One slot in this process, which a stand-in can reach; keeps the sentences that it told."""

    num_envs = 1
    groups = 1

    def __init__(self) -> None:
        self.slots = Slots(SETTINGS._replace(cameras=[], episode_steps=LIMIT))
        self.told: list[str] = []

    def reset(self, slots: list[int], episodes: list[Episode]) -> Observation:
        images, state, sentences = self.slots.reset(list(zip(slots, episodes, strict=True)))
        self.told = sentences.tolist()
        return Observation(images, state, sentences.tolist())

    def step(self, slots: list[int], actions: np.ndarray) -> ChunkResult:
        outcome = self.slots.step(slots, actions)
        self.told += outcome.instruction.tolist()
        observation = Observation(outcome.images, outcome.state, outcome.instruction.tolist())
        return ChunkResult(observation, outcome.reward, outcome.terminated, outcome.truncated, outcome.steps)


def rolled_out(envs: Here, solves: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Step], list[str]]:
    """Steps of one episode in which the first ``solves`` subtasks are solved, and the subtasks that were asked for."""
    calls: list[str] = []

    def solved(name: str, start: Any, now: Any) -> bool:
        calls.append(name)
        return len(calls) % EVERY == 0 and len(calls) // EVERY <= solves

    monkeypatch.setattr("pirl_core.envs.calvin.simulator.solved", solved)
    still = np.zeros((1, CHUNK, 7), np.float32)
    steps = play(envs, [Episode(TASK, 5, "random")], lambda *_: still, None)
    return steps, list(dict.fromkeys(calls))


@needs_clone
def test_a_rollout_pays_each_subtask_and_asks_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk ends where the sentence changes; the episode after the fifth subtask, or after one that had its limit."""
    envs = Here()
    whole, plan = rolled_out(envs, 5, monkeypatch)
    assert [(step.steps, step.reward) for step in whole] == [(CHUNK, 0.0), (EVERY - CHUNK, 1.0)] * 5
    assert [step.terminated for step in whole] == [False] * 9 + [True]
    assert len(plan) == 5 and not any(step.truncated for step in whole)
    sentences = [SUBTASKS[name].sentence for name in plan]
    assert envs.told == [sentences[min(decision // 2, 4)] for decision in range(11)]

    part, again = rolled_out(envs, 2, monkeypatch)
    assert again == plan[:3]
    assert part[:4] == [step._replace(terminated=False) for step in whole[:4]]
    assert [(step.steps, step.reward, step.truncated) for step in part[4:]] == [(CHUNK, 0, False), (4, 0, True)]

    rl = rl_params(normalize_advantages=False)
    advantage, _ = advantages(whole, np.zeros(10), np.zeros(10), 1, rl)
    decay = rl.gamma * rl.gae_lambda
    assert advantage[0] == pytest.approx(sum(decay**at for at in (1, 3, 5, 7, 9)))
    assert np.all(advantages(part, np.zeros(6), np.zeros(6), 1, rl)[0] == pytest.approx([
        decay + decay**3, 1 + decay**2, decay, 1, 0, 0,
    ]))  # fmt: skip

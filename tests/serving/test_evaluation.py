"""An episode that is driven from outside is the evaluation's, bit for bit, where both play one at a time."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.evaluation.evaluate import Outcome, run_episodes
from pirl_core.evaluation.players import deterministic
from pirl_core.rl.rollout import play
from pirl_core.serving import openpi, websocket
from pirl_core.types import Observation
from tests.evaluation.test_evaluate import ENV, random_policy
from tests.evaluation.test_evaluate import EPISODES as ALL
from tests.serving.running import policy_of, predicted, row, running

EPISODES = ALL[::3]
Choose = Callable[[Observation, int, int], np.ndarray]
"""(observation of one row, the episode's seed, number of the decision) → a chunk (R, A)."""


def driven(envs: VectorEnv, choose: Choose) -> list[Outcome]:
    """The episodes, each chunk asked for as a client would."""
    chunks: list[list[np.ndarray]] = [[] for _ in EPISODES]

    def decide(observation: Observation, episode: np.ndarray, decision: np.ndarray) -> np.ndarray:
        chunk = choose(observation, EPISODES[episode[0]].seed, int(decision[0]))
        chunks[episode[0]].append(chunk)
        return chunk[None]

    steps = play(envs, EPISODES, decide, None)
    found = []
    for number, episode in enumerate(EPISODES):
        mine = [step for step in steps if step.episode == number]
        length, reward = sum(step.steps for step in mine), sum(step.reward for step in mine)
        success = any(step.terminated for step in mine)
        found.append(Outcome(episode, success, length, reward, np.concatenate(chunks[number])[:length]))
    return found


def test_an_episode_is_that_of_the_evaluation() -> None:
    """By the notebook's call, and by openpi's client, which names each episode's seed."""
    client = pytest.importorskip("openpi_client.websocket_client_policy", reason="openpi-client is not installed")
    torch.set_num_threads(1)
    flow = random_policy()
    policy = policy_of(flow)
    with VectorEnv(ENV, 1, 1) as envs, running(policy, openpi, websocket) as (_, port):
        remote = client.WebsocketClientPolicy("127.0.0.1", port)

        def ask(observation: Observation, seed: int, decision: int) -> np.ndarray:
            images, state, instruction = row(observation, 0)
            message = {
                "observation/camera0": images[0],
                "observation/state": state,
                "prompt": instruction,
                "seed": seed,
            }
            return np.asarray(remote.infer(message)["actions"])

        expected = run_episodes(deterministic(flow), envs, EPISODES)
        called = driven(envs, lambda seen, seed, decision: predicted(policy, seen, 0, seed, decision))
        served = driven(envs, ask)
    for one, *others in zip(expected, called, served, strict=True):
        for other in others:
            assert other[:4] == one[:4]
            np.testing.assert_array_equal(other.actions, one.actions)

"""The frozen protocol: fixed episodes, deterministic chunks, one row an episode.

Start noise of a chunk depends on (episode seed, decision) alone, so a policy's outcome on an episode does not depend on
what else is evaluated, in which order, or on how many workers.
"""

from typing import NamedTuple

import numpy as np
import torch

from pirl_core import seeds
from pirl_core.params import Env, Evaluate
from pirl_core.policy.flow_policy import FlowPolicy, keyed_normals
from pirl_core.rl.rollout import ChunkEnv, play
from pirl_core.types import Episode, Observation


class Outcome(NamedTuple):
    """What came of one episode. actions: (steps, D) as executed, which replays it."""

    episode: Episode
    success: bool
    steps: int
    reward: float
    actions: np.ndarray


def split_episodes(env: Env, evaluate: Evaluate, name: str) -> list[Episode]:
    """The episodes of one split, task by task."""
    split = evaluate.splits[name]
    tasks = env.tasks if split.tasks is None else split.tasks
    return [
        Episode(task, seeds.evaluation_seed(evaluate.seed, task, index), split.shift)
        for task in tasks
        for index in range(split.episodes_per_task)
    ]


def validation_episodes(env: Env, seed: int, per_task: int) -> list[Episode]:
    """Episodes for choosing a checkpoint; evaluation never sees their seeds."""
    return [Episode(task, seeds.validation_seed(seed, task, index)) for task in env.tasks for index in range(per_task)]


def run_episodes(policy: FlowPolicy, envs: ChunkEnv, episodes: list[Episode]) -> list[Outcome]:
    """Play each episode with the deterministic (ODE) policy."""
    shape = policy.backbone.shape
    chunks: list[list[np.ndarray]] = [[] for _ in episodes]

    def decide(observation: Observation, episode: np.ndarray, decision: np.ndarray) -> np.ndarray:
        keys = [(episodes[e].seed, int(d)) for e, d in zip(episode, decision, strict=True)]
        normals = keyed_normals(keys, (shape.horizon, shape.action_dim)).to(policy.device)
        with torch.no_grad():
            actions = policy.act(policy.encode(observation), normals).cpu().numpy()
        for row, index in enumerate(episode):
            chunks[index].append(actions[row])
        return actions

    steps = play(envs, episodes, decide, None)
    success, length = np.zeros(len(episodes), bool), np.zeros(len(episodes), np.int64)
    reward = np.zeros(len(episodes))
    for step in steps:
        success[step.episode] |= step.terminated
        length[step.episode] += step.steps
        reward[step.episode] += step.reward
    return [
        Outcome(episode, bool(success[i]), int(length[i]), float(reward[i]), np.concatenate(chunks[i])[: length[i]])
        for i, episode in enumerate(episodes)
    ]


def success_rate(outcomes: list[Outcome]) -> float:
    return float(np.mean([outcome.success for outcome in outcomes]))

"""A point that is to stay near 0: a world for SAC without a simulator."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pirl_core.params.preset import load_preset
from pirl_core.params.sections import Rl
from pirl_core.policy.backbone import new_backbone, new_shape
from pirl_core.policy.context import DataSizes
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.policy.folder import save_policy
from pirl_core.policy.normalize import Affine, Normalization
from pirl_core.policy.tokenizer import build_tokenizer
from pirl_core.rl.sac.train import train_sac
from pirl_core.types import ChunkResult, Episode, Observation
from tests.worlds import session

LENGTH = 6


class Point:
    """It starts at ±1 by its seed, moves by the action, and pays −x² for each of ``LENGTH`` steps, then time is up."""

    num_envs = 4
    groups = 1

    def __init__(self) -> None:
        self.x = np.zeros(self.num_envs, np.float32)
        self.steps = np.zeros(self.num_envs, np.int64)

    def _observe(self, slots: list[int]) -> Observation:
        return Observation(
            np.zeros((len(slots), 0, 0, 0, 3), np.uint8), self.x[slots, None].copy(), ["go"] * len(slots)
        )

    def reset(self, slots: list[int], episodes: list[Episode]) -> Observation:
        self.x[slots] = [1.0 if episode.seed % 2 else -1.0 for episode in episodes]
        self.steps[slots] = 0
        return self._observe(slots)

    def step(self, slots: list[int], actions: np.ndarray) -> ChunkResult:
        self.x[slots] += actions[:, 0, 0]
        self.steps[slots] += 1
        over = self.steps[slots] == LENGTH
        return ChunkResult(
            self._observe(slots), -np.square(self.x[slots]), ~over & False, over, np.ones(len(slots), int)
        )


def point_policy(family: str, states: int = 1, actions: int = 1) -> FlowPolicy:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["go"])
    shape = new_shape(family, "nano", DataSizes(32, 0, tokenizer.get_vocab_size(), 2, states, actions, 1))
    same = Normalization(Affine([0.0] * states, [1.0] * states), Affine([0.0] * actions, [0.8] * actions), 0, True)
    return FlowPolicy(new_backbone(shape), tokenizer, "words", same, 1, 4)


def settings(**changes: Any) -> Rl:
    base = load_preset("laptop").rl
    sac = {
        "decisions_per_iteration": 72, "learning_starts": 72, "batch_size": 48, "critic_width": 32, "replay_size": 200,
        **changes.pop("sac", {}),
    }  # fmt: skip
    told = {
        "algorithm": "sac", "mdp": "one_layer", "noise_rule": "learned", "noise_min_std": 0.02, "noise_max_std": 0.5,
        "iterations": 4, "gamma": 0.9, "actor_lr": 0.003, "critic_lr": 0.003, "critic_warmup_iterations": 0, **changes,
    }  # fmt: skip
    return base.model_copy(update={**told, "sac": base.sac.model_copy(update=sac)})


class StopHereError(Exception):
    pass


def train(policy: FlowPolicy, rl: Rl, folder: Path, stop: int | None = None, **limits: Any) -> list[dict[str, float]]:
    def improved() -> None:
        save_policy(policy, opened.policy)

    def validate(iteration: int) -> dict[str, float]:
        if iteration == stop:
            raise StopHereError
        return {"validation/return": float(iteration)}

    with session(folder, rl.iterations, **limits) as opened:
        train_sac(policy, Point(), ["point"], "none", rl, 0, opened, validate, improved, "return")
        lines = (opened.log / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]

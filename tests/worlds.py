"""Small policies and a one-step bandit that the tests share."""

from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pirl_core.params.sections import Supervision
from pirl_core.policy.context import DataSizes
from pirl_core.policy.families.pi0.network import Pi0, small_shape
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.policy.normalize import Affine, Normalization
from pirl_core.policy.tokenizer import build_tokenizer
from pirl_core.training.session import Session, open_session
from pirl_core.types import ChunkResult, Episode, Observation

SUPERVISION: dict[str, Any] = {
    "checkpoint_minutes": 0.0, "trackers": [], "validation_videos": 0, "warn_kl": 1.0, "warn_first_ratio_error": 0.01,
    "warn_success_drop": 0.2, "stop_kl": None, "stop_success_drop": None, "max_skipped_updates": 0,
}  # fmt: skip
SAC = {
    "decisions_per_iteration": 24, "replay_size": 30, "random_decisions": 0, "learning_starts": 12,
    "updates_per_decision": 1, "batch_size": 8, "target_rate": 0.1, "renorm_warmup": 5, "actor_every": 2,
    "critic_width": 8, "critic_layers": 1, "temperature": 0.2, "temperature_lr": 0.01,
    "target_entropy": -1.0, "proximal_coef": 0.0,
}  # fmt: skip
NUMBERS_ALONE = ("mlp", "flow_g", "flow_t", "shortcut")
"""Families without pictures and words."""
INSTRUCTIONS = ["press the red button", "open the drawer", "slide the green window open slowly"]


def small_policy(
    cameras: int = 1,
    stem: Literal["patch", "conv"] = "conv",
    horizon: int = 6,
    replan: int = 4,
    seed: int = 0,
    state_numbers: int | None = None,
    action_numbers: int | None = None,
    delta: int = 0,
    pi05: bool = False,
    **sizes: int,
) -> FlowPolicy:
    """A random policy whose every parameter is far from its initial value, so that no mistake hides behind a zero."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(INSTRUCTIONS)
    sizes = {
        "vlm_width": 32, "vlm_layers": 2, "vision_width": 32, "vision_layers": 1, "expert_width": 24, "heads": 2,
        "head_dim": 8, "image_size": 32, "text_length": 7, "state_dim": 4, "action_dim": 3, **sizes,
    }  # fmt: skip
    data = DataSizes(
        cameras=cameras,
        vocabulary=tokenizer.get_vocab_size(),
        horizon=horizon,
        **{name: sizes.pop(name) for name in ("image_size", "text_length", "state_dim", "action_dim")},
    )
    shape = small_shape(data, pi05=pi05, **sizes)._replace(stem=stem)
    numbers = state_numbers or shape.state_dim, action_numbers or shape.action_dim
    state, action = Affine([0.1] * numbers[0], [0.5] * numbers[0]), Affine([0.2] * numbers[1], [0.6] * numbers[1])
    policy = FlowPolicy(Pi0(shape), tokenizer, "words", Normalization(state, action, delta), replan, 4)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.15)
    return policy.eval()


def random_observation(policy: FlowPolicy, count: int, seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    shape = policy.backbone.shape
    size = shape.image_size
    return Observation(
        rng.integers(0, 256, (count, shape.cameras, size, size, 3), np.uint8),
        rng.standard_normal((count, len(policy.state_center))).astype(np.float32),
        [INSTRUCTIONS[i % 3] for i in range(count)],
    )


class Bandit:
    """One decision an episode; reward 1 − mean squared distance of the chunk to ``target`` (simulator units)."""

    num_envs = 256
    groups = 1

    def __init__(self, state_dim: int, target: float) -> None:
        self.state_dim = state_dim
        self.target = target

    def _observe(self, count: int) -> Observation:
        state = np.zeros((count, self.state_dim), np.float32)
        return Observation(np.zeros((count, 0, 0, 0, 3), np.uint8), state, [INSTRUCTIONS[0]] * count)

    def reset(self, slots: list[int], episodes: list[Episode]) -> Observation:
        return self._observe(len(slots))

    def step(self, slots: list[int], actions: np.ndarray) -> ChunkResult:
        reward = 1 - np.square(actions - self.target).mean((1, 2))
        yes = np.ones(len(slots), bool)
        return ChunkResult(self._observe(len(slots)), reward.astype(np.float32), yes, ~yes, yes.astype(np.int64))


@contextmanager
def session(folder: Path, total: int, mark: str = "mark", **supervision: Any) -> Iterator[Session]:
    """A session in ``folder``, which gets ``policy``, ``log`` and the checkpoints under .pirl."""
    folder.mkdir(parents=True, exist_ok=True)
    limits = Supervision.model_validate(SUPERVISION | supervision)
    with chdir(folder), open_session("test", "x", mark, {}, limits, total, Path("policy"), Path("log")) as opened:
        yield opened

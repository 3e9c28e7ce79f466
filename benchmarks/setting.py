"""The laptop scale, and a policy of its sizes with random weights."""

import numpy as np
import torch

from pirl_core.data.lerobot import Frames
from pirl_core.envs.metaworld.facts import FACTS
from pirl_core.params.file import Run, resolve
from pirl_core.params.preset import load_preset
from pirl_core.params.sections import Policy, Supervision
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.rl.rollout import take
from pirl_core.rl.train import process_of
from pirl_core.sft.build import build_policy
from pirl_core.types import ChunkResult, Episode, Observation


def laptop() -> Run:
    """Flow-SDE of the laptop preset, whatever params.yaml holds."""
    return resolve(load_preset("laptop"), "metaworld", "flow_sde")


def supervision() -> Supervision:
    """How the laptop preset looks after a run, but without a guard that stops it."""
    return load_preset("laptop").run.model_copy(update={"stop_kl": None, "stop_success_drop": None})


def random_policy(run: Run, policy: Policy) -> FlowPolicy:
    """Ready for RL, as ``train_rl`` prepares it: frozen VLM, critic and noise net."""
    rng = np.random.default_rng(0)
    env = run.env
    instructions = [FACTS.tasks[task].sentences[0] for task in env.tasks]
    count = len(instructions)
    row = np.arange(count)
    frames = Frames(
        np.zeros((count, len(env.cameras), env.image_size, env.image_size, 3), np.uint8),
        rng.standard_normal((count, FACTS.state_dim(env.object_state))).astype(np.float32),
        rng.uniform(-1, 1, (count, len(FACTS.action))).astype(np.float32),
        row,
        row,
        row,
        instructions,
    )
    built = build_policy(env, policy, frames, instructions, seed=0).policy
    built.backbone.freeze_vlm()
    built.add_heads(process_of(run.rl), run.rl.critic_layers, run.rl.noise_rule == "learned")
    return built.eval()


def random_observation(run: Run, count: int) -> Observation:
    rng = np.random.default_rng(0)
    env = run.env
    return Observation(
        rng.integers(0, 256, (count, len(env.cameras), env.image_size, env.image_size, 3), np.uint8),
        rng.standard_normal((count, FACTS.state_dim(env.object_state))).astype(np.float32),
        [FACTS.tasks[env.tasks[row % len(env.tasks)]].sentences[0] for row in range(count)],
    )


def wait_for_device() -> None:
    """GPUs work ahead of Python; a clock must be read when they are done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Still:
    """Costs nothing: always the same observation, and episodes of so many decisions that the time limit ends."""

    groups = 1

    def __init__(self, seen: Observation, decisions: int) -> None:
        self.num_envs = len(seen.state)
        self._seen = seen
        self._decisions = decisions
        self._played = np.zeros(self.num_envs, np.int64)

    def reset(self, slots: list[int], episodes: list[Episode]) -> Observation:
        self._played[slots] = 0
        return take(self._seen, np.array(slots))

    def step(self, slots: list[int], actions: np.ndarray) -> ChunkResult:
        self._played[slots] += 1
        over, nothing = self._played[slots] == self._decisions, np.zeros(len(slots), np.float32)
        steps = np.full(len(slots), actions.shape[1])
        return ChunkResult(take(self._seen, np.array(slots)), nothing, np.zeros_like(over), over, steps)

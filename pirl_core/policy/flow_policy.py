"""The flow policy: a backbone, the statistics of its data, and (for RL) a critic and a noise net.

Axes: B batch, C cameras, K denoising steps, N log-probabilities a decision, T scored steps, H horizon, R executed
steps, D action numbers, S state numbers.
Time: τ = 0 is noise, τ = 1 is the action.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from pirl_core.flow import chain
from pirl_core.flow.chain import Noise
from pirl_core.policy.context import Context, Inputs
from pirl_core.policy.heads import NoiseNet, critic_head
from pirl_core.policy.pi0 import Pi0
from pirl_core.policy.tokenizer import tokenize
from pirl_core.types import Observation


class Statistics(NamedTuple):
    """Mean and standard deviation of the demonstrations' states (S,) and actions (D,)."""

    state_mean: list[float]
    state_std: list[float]
    action_mean: list[float]
    action_std: list[float]


class Process(NamedTuple):
    """How a decision becomes log-probabilities: which MDP, how they are reduced, where the critic sits."""

    mdp: str
    hybrid_draw: str
    logprob_reduction: str
    critic: str | None


class Decision(NamedTuple):
    """One chunk chosen in training. actions: (B, R, D) in simulator units. states: (B, K+1, H, D) of the chain.
    stochastic: (B, K). log_prob: (B, N). value: (B,), zeros without a critic."""

    actions: Tensor
    states: Tensor
    stochastic: Tensor
    log_prob: Tensor
    value: Tensor


class Evaluation(NamedTuple):
    """Recorded decisions under the present parameters. log_prob: (B, N). value, entropy: (B,)."""

    log_prob: Tensor
    value: Tensor
    entropy: Tensor


# A number that hardly varies in the demonstrations must not be blown up when it varies in the simulator.
MIN_STD = 0.01


class FlowPolicy(nn.Module):
    """Observation in, action chunk out. ``forward`` is the only entry that trains (any other would bypass DDP)."""

    state_mean: Tensor
    state_std: Tensor
    action_mean: Tensor
    action_std: Tensor

    def __init__(
        self, backbone: Pi0, tokenizer: Tokenizer, statistics: Statistics, replan: int, denoise_steps: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.statistics = statistics
        self.replan = replan
        self.denoise_steps = denoise_steps
        self.noise_net: NoiseNet | None = None
        self.critic: nn.Sequential | None = None
        for name in Statistics._fields:
            value = torch.tensor(getattr(statistics, name), dtype=torch.float32)
            scale = value.clamp(min=MIN_STD) if name.endswith("std") else value
            self.register_buffer(name, scale, persistent=False)

    def add_heads(self, process: Process, critic_layers: int, learned_noise: bool) -> None:
        """What RL adds to an SFT policy. A policy folder keeps the velocity alone (Sec. 4.1.1)."""
        shape = self.backbone.shape
        if process.critic is not None:
            width = self.backbone.context_width if process.critic == "vlm" else shape.expert_width
            self.critic = critic_head(width, critic_layers)
        if learned_noise:
            self.noise_net = NoiseNet(shape.expert_width, shape.action_dim)

    @property
    def device(self) -> torch.device:
        return self.state_mean.device

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """(H, D) of a chunk."""
        return self.backbone.shape.horizon, self.backbone.shape.action_dim

    def inputs(self, observation: Observation) -> Inputs:
        device = self.device
        images = torch.from_numpy(observation.images).to(device).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
        ids, valid = tokenize(self.tokenizer, observation.instructions, self.backbone.shape.text_length)
        state = (torch.from_numpy(observation.state).to(device) - self.state_mean) / self.state_std
        return Inputs(images, torch.from_numpy(ids).to(device), torch.from_numpy(valid).to(device), state)

    def encode(self, observation: Observation) -> Context:
        return self.backbone.encode(self.inputs(observation))

    def normalize_actions(self, actions: Tensor) -> Tensor:
        return (actions - self.action_mean) / self.action_std

    def executed(self, states: Tensor) -> Tensor:
        """The part of the last chain state that acts: (B, K+1, H, D) → (B, R, D) in simulator units."""
        return states[:, -1, : self.replan] * self.action_std + self.action_mean

    @torch.no_grad()
    def act(self, context: Context, normals: Tensor) -> Tensor:
        """Deterministic chunk by ODE from given start noise. normals: (B, H, D) → (B, R, D) in simulator units."""
        still = torch.zeros(len(normals), self.denoise_steps, dtype=torch.bool, device=normals.device)
        start = normals[:, None].expand(-1, self.denoise_steps + 1, -1, -1)
        # The rule is never drawn from: every step is an ODE step.
        rule = Noise("constant_sde", 0.0, 0.0, 0.0)
        return self.executed(chain.sample(self._velocity(context), start, still, rule, None)[0])

    @torch.no_grad()
    def decide(self, context: Context, normals: Tensor, uniforms: Tensor, noise: Noise, process: Process) -> Decision:
        """A chunk for training, with its log-probability and value.

        normals: (B, K+1, H, D), start noise then the noise of each step. uniforms: (B,) draw the hybrid's step.
        """
        stochastic = chain.stochastic_steps(process.mdp, process.hybrid_draw, uniforms, self.denoise_steps)
        states, score = chain.sample(self._velocity(context), normals, stochastic, noise, self.noise_net)
        result = self._evaluate(context, states, stochastic, score, process)
        return Decision(self.executed(states), states, stochastic, result.log_prob, result.value)

    def forward(
        self, context: Context, states: Tensor, stochastic: Tensor, noise: Noise, process: Process
    ) -> Evaluation:
        """Log-probability, value and entropy of recorded chains under the present parameters."""
        steps = chain.scored_steps(process.mdp, stochastic)
        if process.critic == "expert":
            # Eq. 16 averages V over the whole denoising trajectory, whichever step is scored.
            steps = torch.arange(self.denoise_steps, device=states.device).expand(len(states), -1)
        score = chain.score(self._velocity(context), states, steps, stochastic, noise, self.noise_net)
        return self._evaluate(context, states, stochastic, score, process)

    def _evaluate(
        self, context: Context, states: Tensor, stochastic: Tensor, score: chain.Score, process: Process
    ) -> Evaluation:
        """The one reduction, of rollout and training alike. ``score`` holds all K steps, or the scored ones alone."""
        log_prob, entropy = (part[:, :, : self.replan] for part in (score.log_prob, score.entropy))
        steps = chain.scored_steps(process.mdp, stochastic)
        if log_prob.shape[1] != steps.shape[1]:
            rows = torch.arange(len(states), device=states.device)[:, None]
            log_prob, entropy = log_prob[rows, steps], entropy[rows, steps]
        return Evaluation(
            chain.reduce_log_prob(log_prob, states[:, 0, : self.replan], process.mdp, process.logprob_reduction),
            self.value(context, score.features, process),
            entropy.mean((1, 2, 3)),
        )

    def value(self, context: Context, features: Tensor | None, process: Process) -> Tensor:
        """V(o): (B,). vlm: on the VLM's pooled output and the state, which π0.5 feeds through the VLM itself.
        expert: mean over τ of V on the expert's chunk-averaged features (Eq. 16), detached as in the official runs."""
        if self.critic is None:
            return context.state.new_zeros(len(context.state))
        if process.critic == "vlm":
            value: Tensor = self.critic(torch.cat([context.pooled, context.state], -1)).squeeze(-1)
        else:
            assert features is not None
            value = self.critic(features.detach().mean(2)).squeeze(-1).mean(1)
        return value.float()

    def _velocity(self, context: Context) -> chain.Velocity:
        return lambda x, tau: self.backbone.velocity(context, x, tau)


class FlowMatching(nn.Module):
    """The SFT objective as one forward, so that DDP sees it."""

    def __init__(self, backbone: Pi0) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: Inputs, x: Tensor, tau: Tensor) -> Tensor:
        """Velocity (B, H, D) at noisy actions x, encoding the observation with gradient."""
        return self.backbone.velocity(self.backbone.encode(inputs), x, tau)[0].float()


def keyed_normals(keys: Sequence[tuple[int, ...]], shape: tuple[int, ...]) -> Tensor:
    """Standard normals (B, *shape), each row a function of its key alone, (seed, episode, decision) say.

    So results depend neither on how episodes are batched nor on how many workers or ranks share them.
    """
    return torch.from_numpy(np.stack([np.random.default_rng(key).standard_normal(shape, np.float32) for key in keys]))

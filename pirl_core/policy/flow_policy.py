"""The flow policy: a backbone, the statistics of its data, and (for RL) a critic and a noise net.

Axes: B batch, C cameras, K denoising steps, N log-probabilities a decision, T scored steps, H horizon, R executed
steps, D action numbers of the network, A of them the simulator's (the rest is padding), M of these not constant in the
demonstrations, S state numbers.
Time: τ = 0 is noise, τ = 1 is the action.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from pirl_core import seeds
from pirl_core.errors import UserError
from pirl_core.flow import chain
from pirl_core.flow.chain import Noise
from pirl_core.params.sections import Precision
from pirl_core.policy.backbone import Backbone, new_noise_net, own_head, velocity_of
from pirl_core.policy.context import Context, Inputs
from pirl_core.policy.heads import critic_head
from pirl_core.policy.images import network_images
from pirl_core.policy.interface import Interface
from pirl_core.policy.normalize import Normalization, moving, pad_last
from pirl_core.policy.tokenizer import Prompt, image_words, tokenize
from pirl_core.types import Observation

SQUASHED = 0.99
"""A squashed action that a demonstration shows is at most this, so that its place before the tanh is finite."""


class Process(NamedTuple):
    """How a decision becomes log-probabilities: which MDP, how they are reduced, where the critic sits."""

    mdp: str
    hybrid_draw: str
    logprob_reduction: str
    critic: str | None


class Decision(NamedTuple):
    """One chunk chosen in training. actions: (B, R, A) in simulator units. states: (B, K+1, H, D) of the chain.
    stochastic: (B, K). log_prob: (B, N). value: (B,), zeros without a critic."""

    actions: Tensor
    states: Tensor
    stochastic: Tensor
    log_prob: Tensor
    value: Tensor


class Evaluation(NamedTuple):
    """Recorded decisions under the present parameters. log_prob: (B, N). value, entropy: (B,). w2: (B,), where there is
    a ``reference``, the mean squared distance of the ODE's actions to its actions from the same start."""

    log_prob: Tensor
    value: Tensor
    entropy: Tensor
    w2: Tensor | None = None


class FlowPolicy(nn.Module):
    """Observation in, action chunk out. ``forward`` is the only entry that trains (any other would bypass DDP); the
    others decide, in the arithmetic of ``precision``: rollouts, validation and evaluation have one."""

    state_center: Tensor
    state_scale: Tensor
    action_center: Tensor
    action_scale: Tensor

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: Tokenizer,
        prompt: Prompt,
        normalization: Normalization,
        replan: int,
        denoise_steps: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.normalization = normalization
        self.replan = replan
        self.denoise_steps = denoise_steps
        # Of its training, for which ``precision.round_weights`` stores the weights.
        self.precision: Precision = "fp32"
        # By name, what it reads and moves; None of one that was made before this was kept.
        self.interface: Interface | None = None
        # Weights before they were rounded to be frozen, by their names in the backbone: see ``precision``.
        self.originals: dict[str, Tensor] = {}
        self.noise_net: nn.Module | None = None
        # What the noise net was before its training.
        self.noise_net_before: dict[str, Tensor] = {}
        self.critic: nn.Module | None = None
        # The frozen backbone of the policy before RL, for ``Evaluation.w2``.
        self.reference: Backbone | None = None
        for name in ("state", "action"):
            for part, numbers in getattr(normalization, name)._asdict().items():
                self.register_buffer(f"{name}_{part}", torch.tensor(numbers, dtype=torch.float32), persistent=False)
        self.moving = moving(normalization.action)

    def add_heads(self, process: Process, critic_layers: int, learned_noise: bool) -> None:
        """What RL adds to an SFT policy. A policy folder keeps the velocity alone (Sec. 4.1.1).

        Raises UserError for a critic that the backbone has no place for.
        """
        shape = self.backbone.shape
        if process.critic == "vlm_unmasked":
            if not hasattr(self.backbone, "pool_padding"):
                raise UserError(
                    f"rl.critic = vlm_unmasked: the official pooling of π0 and π0.5, which {shape.family} has not; "
                    "set vlm or expert"
                )
            self.backbone.pool_padding = True
            self.critic = critic_head(shape.vlm_width, critic_layers)
        elif process.critic is not None:
            width = self.backbone.context_width if process.critic == "vlm" else shape.expert_width
            own = own_head(shape, "critic") if process.critic == "vlm" else None
            self.critic = own or critic_head(width, critic_layers)
        if learned_noise:
            self.noise_net = new_noise_net(shape)
            self.noise_net_before = {name: value.clone() for name, value in self.noise_net.state_dict().items()}

    @property
    def device(self) -> torch.device:
        return self.state_center.device

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """(H, D) of a chunk."""
        return self.backbone.shape.horizon, self.backbone.shape.action_dim

    def inputs(self, observation: Observation) -> Inputs:
        device, shape = self.device, self.backbone.shape
        images = network_images(torch.from_numpy(observation.images).to(device), shape.image_size, self.backbone.resize)
        state = (torch.from_numpy(observation.state).to(device) - self.state_center) / self.state_scale
        words = image_words(shape.cameras, getattr(shape, "patches", 0)) if self.prompt == "groot" else ""
        ids, valid = tokenize(
            self.tokenizer, self.prompt, observation.instructions, state.cpu().numpy(), shape.text_length, words
        )
        tokens, tokens_valid = torch.from_numpy(ids).to(device), torch.from_numpy(valid).to(device)
        return Inputs(images, tokens, tokens_valid, pad_last(state, shape.state_dim))

    def arithmetic(self) -> AbstractContextManager[None]:
        """Around what is computed to decide; simulators are outside, for they may use torch too."""
        # Not an autocast that is switched off, which would end one around it.
        return nullcontext() if self.precision == "fp32" else torch.autocast(self.device.type, torch.bfloat16)

    def encode(self, observation: Observation) -> Context:
        inputs = self.inputs(observation)
        with self.arithmetic():
            return self.backbone.encode(inputs)

    def normalize_actions(self, actions: Tensor, state: Tensor) -> Tensor:
        """Chunks (B, H, A) in simulator units, with the states (B, S) they start from, as the network has them:
        (B, H, D), the padding 0, which it learns to leave at 0 (as openpi's policies do)."""
        moved = actions.clone()
        moved[:, :, : self.normalization.delta] -= state[:, None, : self.normalization.delta]
        normal = (moved - self.action_center) / self.action_scale
        if self.normalization.squash:
            normal = normal.clamp(-SQUASHED, SQUASHED).atanh()
        return pad_last(normal, self.backbone.shape.action_dim)

    def executed(self, states: Tensor, context: Context) -> Tensor:
        """The part of the last chain state that acts: (B, K+1, H, D) → (B, R, A) in simulator units."""
        delta = self.normalization.delta
        last = states[:, -1, : self.replan, : len(self.action_center)]
        actions = (last.tanh() if self.normalization.squash else last) * self.action_scale + self.action_center
        state = context.state[:, : len(self.state_center)] * self.state_scale + self.state_center
        actions[:, :, :delta] += state[:, None, :delta]
        return actions

    def _real(self, x: Tensor) -> Tensor:
        """The executed steps and the numbers that move: (B, T, H, D) → (B, T, R, M)."""
        executed = x[:, :, : self.replan]
        count = len(self.moving)
        return executed[..., :count] if self.moving == list(range(count)) else executed[..., self.moving]

    @torch.no_grad()
    def act(self, context: Context, normals: Tensor) -> Tensor:
        """Deterministic chunk by ODE from given start noise. normals: (B, H, D) → (B, R, A) in simulator units."""
        with self.arithmetic():
            last = self._ode(self.backbone, context, normals)
        return self.executed(last[:, None], context)

    def _ode(self, backbone: Backbone, context: Context, start: Tensor) -> Tensor:
        """A^K by Euler's steps from the start. (B, H, D) → (B, H, D)."""
        still = torch.zeros(len(start), self.denoise_steps, dtype=torch.bool, device=start.device)
        normals = start[:, None].expand(-1, self.denoise_steps + 1, -1, -1)
        # The rule is never drawn from: every step is an ODE step.
        rule = Noise("constant_sde", 0.0, 0.0, 0.0)
        return chain.sample(velocity_of(backbone, context, self.denoise_steps), normals, still, rule, None)[0][:, -1]

    @torch.no_grad()
    def decide(self, context: Context, normals: Tensor, uniforms: Tensor, noise: Noise, process: Process) -> Decision:
        """A chunk for training, with its log-probability and value.

        normals: (B, K+1, H, D), start noise then the noise of each step. uniforms: (B,) draw the hybrid's step.
        """
        stochastic = chain.stochastic_steps(process.mdp, process.hybrid_draw, uniforms, self.denoise_steps)
        with self.arithmetic():
            states, score = chain.sample(self._velocity(context), normals, stochastic, noise, self.noise_net)
            result = self._evaluate(context, states, stochastic, score, process)
        return Decision(self.executed(states, context), states, stochastic, result.log_prob, result.value)

    def forward(
        self, context: Context, states: Tensor, stochastic: Tensor, noise: Noise, process: Process
    ) -> Evaluation:
        """Log-probability, value and entropy of recorded chains under the present parameters."""
        steps = chain.scored_steps(process.mdp, stochastic)
        if process.critic == "expert":
            # Eq. 16 averages V over the whole denoising trajectory, whichever step is scored.
            steps = torch.arange(self.denoise_steps, device=states.device).expand(len(states), -1)
        score = chain.score(self._velocity(context), states, steps, stochastic, noise, self.noise_net)
        result = self._evaluate(context, states, stochastic, score, process)
        return result if self.reference is None else result._replace(w2=self._distance(context, states[:, 0]))

    def _distance(self, context: Context, start: Tensor) -> Tensor:
        """ReinFlow's W2 (arXiv 2505.22094): ‖A^K − A^K of the reference‖², a mean over numbers, both from the noise
        ``start`` (B, H, D) → (B,)."""
        assert self.reference is not None
        with torch.no_grad():
            held = self._ode(self.reference, context, start)
        apart = self._real((self._ode(self.backbone, context, start) - held)[:, None])
        return apart.square().mean((1, 2, 3))

    def _evaluate(
        self, context: Context, states: Tensor, stochastic: Tensor, score: chain.Score, process: Process
    ) -> Evaluation:
        """The one reduction, of rollout and training alike. ``score`` holds all K steps, or the scored ones alone."""
        log_prob, entropy = self._real(score.log_prob), self._real(score.entropy)
        steps = chain.scored_steps(process.mdp, stochastic)
        if log_prob.shape[1] != steps.shape[1]:
            rows = torch.arange(len(states), device=states.device)[:, None]
            log_prob, entropy = log_prob[rows, steps], entropy[rows, steps]
        return Evaluation(
            chain.reduce_log_prob(log_prob, self._real(states[:, :1])[:, 0], process.mdp, process.logprob_reduction),
            self.value(context, score.features, process),
            entropy.mean((1, 2, 3)),
        )

    def value(self, context: Context, features: Tensor | None, process: Process) -> Tensor:
        """V(o): (B,). vlm: on the VLM's pooled output and the state, which π0.5 feeds through the VLM itself.
        vlm_unmasked: on the official pooled output alone.
        expert: mean over τ of V on the expert's chunk-averaged features (Eq. 16), detached as in the official runs."""
        if self.critic is None:
            return context.state.new_zeros(len(context.state))
        # Returns are learnt to a precision that bf16 does not have.
        with torch.autocast(context.state.device.type, enabled=False):
            if process.critic == "vlm":
                value: Tensor = self.critic(torch.cat([context.pooled, context.state], -1)).squeeze(-1)
            elif process.critic == "vlm_unmasked":
                value = self.critic(context.pooled).squeeze(-1)
            else:
                assert features is not None
                value = self.critic(features.detach().float().mean(2)).squeeze(-1).mean(1)
        return value

    def _velocity(self, context: Context) -> chain.Velocity:
        return velocity_of(self.backbone, context, self.denoise_steps)


class Noisy(NamedTuple):
    """What flow matching asks the network at: an observation with noisy actions x (B, H, D) at times tau (B,).

    step: (B,) lengths of steps that a shortcut model is asked the average velocity of, 0 for flow matching; None where
    there is nothing but flow matching.
    """

    inputs: Inputs
    x: Tensor
    tau: Tensor
    step: Tensor | None = None


class FlowMatching(nn.Module):
    """The SFT objective as one forward, so that DDP sees it."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: Inputs, x: Tensor, tau: Tensor, step: Tensor | None = None) -> Tensor:
        return velocity_at(self.backbone, Noisy(inputs, x, tau, step))


def velocity_at(backbone: Backbone, point: Noisy) -> Tensor:
    """(B, H, D), encoding the observation with gradient."""
    told = () if point.step is None else (point.step,)
    return backbone.velocity(backbone.encode(point.inputs), point.x, point.tau, *told)[0].float()


def keyed_normals(purpose: seeds.Purpose, keys: Sequence[tuple[int, ...]], shape: tuple[int, ...]) -> Tensor:
    """Standard normals (B, *shape), each row a function of purpose and key alone, (seed, episode, decision) say.

    So results depend neither on how episodes are batched nor on how many workers or ranks share them.
    """
    rows = [seeds.generator(purpose, *key).standard_normal(shape, np.float32) for key in keys]
    return torch.from_numpy(np.stack(rows))


def keyed_uniforms(purpose: seeds.Purpose, keys: Sequence[tuple[int, ...]]) -> Tensor:
    """Numbers in [0, 1), (B,), each a function of purpose and key alone, as ``keyed_normals``."""
    return torch.tensor([seeds.generator(purpose, *key).random() for key in keys])

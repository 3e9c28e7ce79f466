"""All that SAC Flow trains as one module, so that its losses are forward passes of one.

Axes: B rows, K denoising steps, H horizon, D action numbers of the network, R executed steps, A of the simulator,
S state numbers.
"""

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pirl_core.flow import chain
from pirl_core.flow.chain import Noise, Score, Velocity
from pirl_core.params.sections import Sac
from pirl_core.policy.backbone import velocity_of
from pirl_core.policy.context import Context
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.rl.sac import losses
from pirl_core.rl.sac.critics import Critics, follow


class Batch(NamedTuple):
    """``replay.Transitions`` on the device."""

    state: Tensor
    action: Tensor
    reward: Tensor
    next_state: Tensor
    terminated: Tensor


class SacFlow(nn.Module):
    """policy, twin critics, their targets where there are any, and the logarithm of the temperature α."""

    def __init__(self, policy: FlowPolicy, sac: Sac) -> None:
        super().__init__()
        self.policy = policy
        self.sac = sac
        count = policy.replan * len(policy.action_center)
        warmup = sac.renorm_warmup if sac.target_rate is None else None
        self.critics = Critics(len(policy.state_center), count, sac.critic_width, sac.critic_layers, warmup)
        self.targets = None if sac.target_rate is None else deepcopy(self.critics).requires_grad_(False)
        self.log_temperature = nn.Parameter(torch.tensor(sac.temperature).log())
        # The path's entropy is that of all numbers that are executed.
        self.target_entropy = sac.target_entropy * count

    def act(self, state: Tensor, normals: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Squashed action (B, R, A) and the path's log-density (B,), with gradient. state: (B, S) normalised; normals:
        (B, K+1, H, D)."""
        policy = self.policy
        drawn = torch.ones(len(state), policy.denoise_steps, dtype=torch.bool, device=state.device)
        return self.ended(*chain.sample(self.velocity(state), normals, drawn, noise, policy.noise_net))

    def velocity(self, state: Tensor) -> Velocity:
        """The policy's, in these states (B, S)."""
        nothing = state[:, :0]
        context = Context(nothing, nothing.bool(), nothing, state)
        return velocity_of(self.policy.backbone, context, self.policy.denoise_steps)

    def ended(self, states: Tensor, score: Score) -> tuple[Tensor, Tensor]:
        """As ``act``, of a chain (B, K+1, H, D) and the score of its steps."""
        action, jacobian = losses.squash(self._executed(states[:, -1]))
        start, steps = self._executed(states[:, 0]), self._executed(score.log_prob)
        return action, losses.path_log_prob(start, steps, jacobian)

    def _executed(self, x: Tensor) -> Tensor:
        """(…, H, D) → (…, R, A)."""
        return x[..., : self.policy.replan, : len(self.policy.action_center)]

    def forward(self, part: str, batch: Batch, normals: Tensor, noise: Noise, gamma: float) -> dict[str, Tensor]:
        """The losses of ``critic`` or ``actor``, by their names in the log. normals: (B, K+1, H, D)."""
        return self._critic(batch, normals, noise, gamma) if part == "critic" else self._actor(batch, normals, noise)

    def _critic(self, batch: Batch, normals: Tensor, noise: Noise, gamma: float) -> dict[str, Tensor]:
        with torch.no_grad():
            action, log_prob = self.act(batch.next_state, normals, noise)
        if self.targets is None:
            # CrossQ: one pass of both, so that the batch's statistics are those of both.
            both = torch.cat([batch.state, batch.next_state]), torch.cat([batch.action, action]).flatten(1)
            value, following = self.critics(*both).chunk(2, 1)
        else:
            value = self.critics(batch.state, batch.action.flatten(1))
            following = self.targets(batch.next_state, action.flatten(1))
        temperature = self.log_temperature.detach().exp()
        target = losses.soft_target(batch.reward, batch.terminated, gamma, following.detach(), log_prob, temperature)
        return {"losses/critic_loss": losses.critic_loss(value, target), "losses/value": value.detach().mean()}

    def _actor(self, batch: Batch, normals: Tensor, noise: Noise) -> dict[str, Tensor]:
        action, log_prob = self.act(batch.state, normals, noise)
        # By their running statistics, if they have any; the gradient goes through them to the action alone.
        self.critics.eval().requires_grad_(False)
        value = self.critics(batch.state, action.flatten(1))
        self.critics.train().requires_grad_(True)
        return {
            "losses/actor_loss": losses.actor_loss(log_prob, value, self.log_temperature.detach().exp()),
            "losses/temperature_loss": losses.temperature_loss(self.log_temperature, log_prob, self.target_entropy),
            "losses/proximal": losses.proximal(action, batch.action),
            "losses/path_entropy": -log_prob.detach().mean(),
            "losses/temperature": self.log_temperature.detach().exp(),
        }

    def follow(self) -> None:
        """After an update of the critics."""
        if self.targets is not None and self.sac.target_rate is not None:
            follow(self.targets, self.critics, self.sac.target_rate)

    def untrained(self) -> dict[str, Tensor]:
        """What no gradient moves and a resumed run needs: target critics and running statistics."""
        trained = {name for name, parameter in self.critics.named_parameters()}
        found = {f"critics.{name}": value for name, value in self.critics.state_dict().items() if name not in trained}
        if self.targets is not None:
            found |= {f"targets.{name}": value for name, value in self.targets.state_dict().items()}
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """From what ``untrained`` gave."""
        for name, value in self.untrained().items():
            value.copy_(tensors[name])

"""The gradient's way back through the chain: closed form of a linear velocity, and a chain unrolled by hand."""

import pytest
import torch
from torch.distributions import Normal

from pirl_core.flow.chain import Noise, Score
from pirl_core.flow.noise import bounded_std
from pirl_core.rl.sac.gradients import gradient_norms
from pirl_core.rl.sac.model import SacFlow
from pirl_core.rl.sac.train import PROCESS
from tests.rl.sac.point import point_policy, settings

STD = 0.1


def raw(features: torch.Tensor) -> torch.Tensor:
    """The middle of the bounds: their geometric mean."""
    return torch.zeros_like(features)


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_linear_velocity_grows_by_its_factor_at_each_step(steps: int) -> None:
    """v = c x: A^K = (1 + c/K)^(K−k) A^k + noise, so a loss gᵀ A^K has the slope (1 + c/K)^(K−k) g at A^k."""
    slope, c = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64), 1.7
    normals = torch.randn(5, steps + 1, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(states: torch.Tensor, score: Score) -> torch.Tensor:
        return (states[:, -1, 0] * slope).sum(-1)

    found = gradient_norms(lambda x, tau: (c * x, x), normals, Noise("learned", 0.0, STD, 2 * STD), raw, loss)
    assert found.tolist() == pytest.approx([5 * (1 + c / steps) ** (steps - k) for k in range(steps)])


@pytest.mark.parametrize("family", ["mlp", "flow_g", "flow_t"])
def test_it_is_autograd_of_the_chain_unrolled_by_hand(family: str) -> None:
    """The actor's loss, the path's density included: each A^k in turn is a leaf, from which the rest is unrolled."""
    rl = settings()
    policy = point_policy(family, states=2, actions=3)
    policy.add_heads(PROCESS, rl.critic_layers, True)
    model = SacFlow(policy, rl.sac)
    state, noise, K = torch.randn(5, 2), Noise("learned", 0.0, 0.05, 0.5), policy.denoise_steps
    normals, velocity = torch.randn(5, K + 1, 1, 3), model.velocity(state)
    assert policy.noise_net is not None

    def actor(action: torch.Tensor, log_prob: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = 0.2 * log_prob - model.critics(state, action.flatten(1)).min(0).values
        return loss

    found = gradient_norms(velocity, normals, noise, policy.noise_net, lambda *path: actor(*model.ended(*path)))
    expected = []
    for leaf in range(K):
        x, arrival = normals[:, 0], Normal(torch.zeros(1), torch.ones(1))
        density = torch.zeros_like(x)
        for k in range(K):
            if k == leaf:
                x = here = x.detach().requires_grad_()
            density = density + arrival.log_prob(x)
            v, features = velocity(x, torch.full((5,), k / K))
            mean, std = x + v / K, bounded_std(policy.noise_net(features), 0.05, 0.5)
            x = mean + std * normals[:, k + 1]
            # How likely it was to come to the leaf is a matter of what came before, which does not move.
            arrival = Normal(mean.detach(), std.detach()) if k + 1 == leaf else Normal(mean, std)
        density = density + arrival.log_prob(x) - torch.log(1 - torch.tanh(x).square())
        [slope] = torch.autograd.grad(actor(torch.tanh(x), density.sum((1, 2))).sum(), [here])
        expected.append(float(slope.flatten(1).norm(dim=1).mean()))
    assert found.tolist() == pytest.approx(expected, rel=1e-4)

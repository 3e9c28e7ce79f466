"""Densities against torch's own distributions, gradients against autograd, batch renormalisation by hand."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from pirl_core.flow import chain
from pirl_core.flow.chain import Noise
from pirl_core.rl.sac import losses
from pirl_core.rl.sac.critics import CRITICS, BatchRenorm, Critics, follow


def test_the_squashed_density_is_the_change_of_variables() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    action, jacobian = losses.squash(x)
    slope = torch.autograd.functional.jacobian(torch.tanh, x.flatten()).diagonal()
    assert torch.allclose(jacobian.flatten(), slope.log())
    # One step of the chain, from a start that is given: a tanh-normal.
    mean, std = torch.randn_like(x), torch.rand_like(x) + 0.1
    ours = losses.path_log_prob(x, chain.log_density(x, mean, std)[:, None], jacobian)
    first = Normal(0.0, 1.0).log_prob(x).sum((1, 2))
    theirs = TransformedDistribution(Normal(mean, std), [TanhTransform(cache_size=1)])
    assert torch.allclose(ours - first, theirs.log_prob(action).sum((1, 2)))


def test_it_stays_finite_where_tanh_is_flat() -> None:
    x = torch.tensor([-300.0, -40.0, 0.0, 40.0, 300.0], requires_grad=True)
    _, jacobian = losses.squash(x)
    [slope] = torch.autograd.grad(jacobian.sum(), [x])
    assert torch.isfinite(jacobian).all() and torch.isfinite(slope).all()
    assert jacobian[2] == 0


def velocity(x: torch.Tensor, tau: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return 0.3 * x + tau[:, None, None], x


def test_the_entropy_s_gradient_reaches_a_learned_std() -> None:
    """ln N(x; μ, σ) of an x that was drawn is −ln σ − n²/2, so it falls by d ln σ a step, whatever the mean."""
    torch.manual_seed(0)
    raw = torch.zeros(4, 1, 2, dtype=torch.float64, requires_grad=True)
    normals = torch.randn(4, 4, 1, 2, dtype=torch.float64)
    drawn = torch.ones(4, 3, dtype=torch.bool)
    score = chain.sample(velocity, normals, drawn, Noise("learned", 0.0, 0.05, 0.5), lambda features: raw)[1]
    density = losses.path_log_prob(normals[:, 0], score.log_prob, torch.zeros_like(raw))
    [slope] = torch.autograd.grad(density.sum(), [raw])
    half_range = math.log(0.5 / 0.05)  # of ln σ over tanh's range from −1 to 1, halved; tanh's own slope at 0 is 1
    assert torch.allclose(slope, torch.full_like(raw, -3 * half_range / 2))


def test_targets_and_temperature_by_hand() -> None:
    value = torch.tensor([[3.0, 1.0], [2.0, 4.0]])
    target = losses.soft_target(
        torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0]), 0.5, value, torch.tensor([1.0, 7.0]), torch.tensor(0.2)
    )
    assert target.tolist() == pytest.approx([1 + 0.5 * (2 - 0.2), 1.0])
    assert losses.critic_loss(value, torch.tensor([1.0, 1.0])).item() == pytest.approx((4 + 0) / 2 + (1 + 9) / 2)
    assert losses.actor_loss(torch.tensor([1.0, 3.0]), value, torch.tensor(0.5)).item() == pytest.approx(
        ((0.5 - 2) + (1.5 - 1)) / 2
    )
    log_temperature = torch.zeros((), requires_grad=True)
    # The entropy is 1 and shall be 4: the temperature has to rise, so the loss falls with it.
    loss = losses.temperature_loss(log_temperature, torch.tensor([-1.0, -1.0]), 4.0)
    assert torch.autograd.grad(loss, [log_temperature])[0].item() == pytest.approx(-3.0)


def test_critics_are_two_mlps_of_their_own() -> None:
    torch.manual_seed(0)
    critics = Critics(3, 4, 16, 2, None)
    state, action = torch.randn(6, 3), torch.randn(6, 4)
    found = critics(state, action)
    for number in range(CRITICS):
        layers: list[nn.Module] = []
        for weight, bias in zip(critics.weights, critics.biases, strict=True):
            layer = nn.Linear(*weight.shape[1:])
            layer.weight.data, layer.bias.data = weight[number].T.contiguous(), bias[number, 0]
            layers += [layer, nn.ReLU()]
        alone = nn.Sequential(*layers[:-1])(torch.cat([state, action], -1)).squeeze(-1)
        assert torch.allclose(found[number], alone, atol=1e-6)


def test_batch_renormalisation() -> None:
    torch.manual_seed(0)
    norm, batches = BatchRenorm(3, warmup=200), [2 * torch.randn(CRITICS, 64, 3) + 1 for _ in range(400)]
    first = norm(batches[0])
    mean, std = batches[0].mean(1, keepdim=True), (batches[0].var(1, unbiased=False, keepdim=True) + 1e-3).sqrt()
    assert torch.allclose(first, (batches[0] - mean) / std, atol=1e-5)
    for batch in batches:
        last = norm(batch)
    # After warm-up a training batch comes out as the running statistics would have it, within the bounds of r and d.
    kept_mean, kept_std = norm.mean.clone(), norm.std.clone()
    again = norm(batches[-1])
    assert torch.allclose(again, (batches[-1] - kept_mean) / kept_std, atol=1e-4)
    norm.eval()
    assert torch.allclose(norm(batches[-1]), last, atol=0.05)


def test_the_target_network_follows() -> None:
    torch.manual_seed(0)
    source, target = Critics(3, 4, 8, 1, None), Critics(3, 4, 8, 1, None)
    before = [parameter.clone() for parameter in target.parameters()]
    follow(target, source, 0.25)
    for old, new, goal in zip(before, target.parameters(), source.parameters(), strict=True):
        assert torch.allclose(new, 0.75 * old + 0.25 * goal)

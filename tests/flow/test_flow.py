"""Flow core against closed forms. Axes as in pirl_core.flow; time from noise (0) to action (1)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

from pirl_core.flow import chain, noise, path
from pirl_core.flow.chain import Noise
from pirl_core.flow.rules import constant_sde, flow_cps, flow_sde

B, H, D, W = 3, 5, 4, 6


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def toy_velocity(x, tau):
    """A smooth nonlinear field with features that depend on everything."""
    v = torch.sin(x) - 0.5 * x + tau[:, None, None]
    return v, torch.cat([x, v[..., :2]], -1)


def toy_noise_net(features):
    return features[..., :D] * 0.7


RULES = [
    Noise("flow_sde", 0.5, 0, 0),
    Noise("constant_sde", 0.1, 0, 0),
    Noise("flow_cps", 0.5, 0, 0),
    Noise("learned", 0, 0.08, 0.16),
]


def test_path_and_velocity_agree():
    action, eps, tau = torch.randn(B, H, D), torch.randn(B, H, D), torch.rand(B)
    h = 1e-6
    slope = (path.interpolate(action, eps, tau + h) - path.interpolate(action, eps, tau - h)) / (2 * h)
    torch.testing.assert_close(slope, path.velocity_target(action, eps), atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(path.interpolate(action, eps, torch.ones(B)), action)
    torch.testing.assert_close(path.interpolate(action, eps, torch.zeros(B)), eps)


def test_loss_ignores_padding():
    velocity, target = torch.randn(B, H, D), torch.randn(B, H, D)
    real = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]).bool()
    loss = path.flow_matching_loss(velocity, target, real)
    torch.testing.assert_close(loss, (velocity - target)[real].square().mean())
    changed = torch.where(real[..., None], velocity, velocity + 9)
    torch.testing.assert_close(path.flow_matching_loss(changed, target, real), loss)


def test_tau_is_denser_near_the_noise_end():
    tau = path.sample_tau(np.random.default_rng(0), 200_000, 1.5, 1.0)
    assert tau.min() >= 0 and tau.max() < 1
    # E[Beta(1.5, 1)] = 0.6, so E[τ] = 1 − (0.999 · 0.6 + 0.001).
    assert tau.mean().item() == pytest.approx(0.3996, abs=2e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(0, 11), st.floats(0.01, 1.0))
def test_weights_keep_the_path(steps, k, level):
    """On the exact path (â = A, ε̂ = ε) the mean weight of the action is always τ', and std² + w_e² ≥ (1 − τ')²."""
    tau, delta = torch.tensor(min(k, steps - 1) / steps), 1 / steps
    for weights in (
        flow_sde.weights(tau, delta, level),
        constant_sde.weights(tau, delta, level),
        flow_cps.weights(tau, delta, level),
    ):
        assert weights.action == pytest.approx(float(tau) + delta)
        assert weights.noise**2 + weights.std**2 >= (1 - tau - delta) ** 2 - 1e-9
    cps = flow_cps.weights(tau, delta, level)
    assert float(cps.noise**2 + cps.std**2) == pytest.approx(float((1 - tau - delta) ** 2), abs=1e-12)


def test_ode_step_is_euler():
    x, tau = torch.randn(B, H, D), torch.tensor([0.0, 0.25, 0.75])
    step = (tau * 4).long()
    still = torch.zeros(B, dtype=torch.bool)
    mean, std, _ = chain.transition(toy_velocity, x, step, 4, still, RULES[0], None)
    torch.testing.assert_close(mean, x + toy_velocity(x, tau)[0] / 4)
    assert (std == 0).all()


@pytest.mark.parametrize("rule", ["flow_sde", "constant_sde", "flow_cps", "learned"])
def test_rules_become_the_ode_as_noise_goes(rule):
    x, step, on = torch.randn(B, H, D), torch.tensor([0, 1, 3]), torch.ones(B, dtype=torch.bool)
    tiny = Noise(rule, 1e-7, 1e-8, 2e-8)
    mean, std, _ = chain.transition(toy_velocity, x, step, 4, on, tiny, toy_noise_net)
    plain, _, _ = chain.transition(toy_velocity, x, step, 4, ~on, tiny, toy_noise_net)
    torch.testing.assert_close(mean, plain, atol=1e-6, rtol=0)
    assert std.max() < 1e-6


@pytest.mark.parametrize(
    ("steps", "expected"), [(4, [0.5, 0.433, 0.25, 0.144]), (5, [0.5, 0.447, 0.274, 0.183, 0.112])]
)
def test_flow_sde_std_closed_form(steps, expected):
    tau = torch.arange(steps) / steps
    std = flow_sde.weights(tau, 1 / steps, 0.5).std
    closed = [0.5 if k == 0 else 0.5 * math.sqrt((steps - k) / (k * steps)) for k in range(steps)]
    torch.testing.assert_close(std, torch.tensor(closed))
    assert [round(value, 3) for value in std.tolist()] == expected


def test_flow_sde_noise_weight_closed_form():
    """w_e = (K−1−k)/K − a²/(2 max(k, 1)): negative at the last step."""
    steps, a = 4, 0.5
    w_e = flow_sde.weights(torch.arange(steps) / steps, 1 / steps, a).noise
    torch.testing.assert_close(
        w_e, torch.tensor([(steps - 1 - k) / steps - a**2 / (2 * max(k, 1)) for k in range(steps)])
    )
    assert w_e[-1].item() == pytest.approx(-0.0417, abs=1e-4)


def test_flow_cps_is_silent_at_the_last_step():
    std = flow_cps.weights(torch.arange(5).float() / 5, 1 / 5, 0.5).std
    assert std[-1] == 0
    torch.testing.assert_close(
        flow_cps.weights(torch.arange(4) / 4, 1 / 4, 0.5).std,
        torch.tensor([0.5303, 0.3536, 0.1768, 0.0]),
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize(
    ("level", "steps", "expected"),
    [
        (0.5, 4, 0.274),
        (0.5, 10, 0.281),
        (0.5, 100, 0.298),
        (0.5, 1000, 0.300),
        (0.0, 4, 0.177),
        (0.0, 10, 0.247),
        (0.0, 100, 0.295),
    ],
)
def test_marginal_of_the_constant_sde_on_a_gaussian(level, steps, expected):
    """Exact velocity for A ~ N(0.7, 0.3²): the sampler is linear, so its std is a recursion, with no sampling error."""
    m, s = 0.7, 0.3
    mean, variance = 0.0, 1.0
    for k in range(steps):
        tau = k / steps
        spread = tau**2 * s**2 + (1 - tau) ** 2
        gain = (tau * s**2 - (1 - tau)) / spread  # E[A − ε | x] = m + gain (x − τ m)
        w = constant_sde.weights(torch.tensor(tau), 1 / steps, level)
        w_a, w_e, std = (float(part) for part in w)
        slope = w_a * (1 + (1 - tau) * gain) + w_e * (1 - tau * gain)
        offset = (w_a * (1 - tau) - w_e * tau) * (m - gain * tau * m)
        mean, variance = slope * mean + offset, slope**2 * variance + std**2
    # The table was sampled; the recursion is exact, so three digits need not agree.
    assert math.sqrt(variance) == pytest.approx(expected, abs=1.5e-3)
    assert mean == pytest.approx(m, abs=0.02)


def test_chain_of_the_gaussian_matches_its_recursion():
    """The sampler itself, not only its weights: 20,000 chains of the same Gaussian target."""
    m, s, steps = 0.7, 0.3, 10
    rng = torch.Generator().manual_seed(0)

    def exact(x, tau):
        t = tau[:, None, None]
        return m + (t * s**2 - (1 - t)) / (t**2 * s**2 + (1 - t) ** 2) * (x - t * m), x

    normals = torch.randn(20_000, steps + 1, 1, 1, generator=rng)
    on = torch.ones(20_000, steps, dtype=torch.bool)
    states, _ = chain.sample(exact, normals, on, Noise("constant_sde", 0.5, 0, 0), None)
    assert states[:, -1].std().item() == pytest.approx(0.281, abs=0.005)


def test_learned_std_bounds():
    raw = torch.linspace(-20, 20, 101)
    std = noise.bounded_std(raw, 0.08, 0.16)
    assert std.min().item() == pytest.approx(0.08) and std.max().item() == pytest.approx(0.16)
    assert noise.bounded_std(torch.zeros(1), 0.08, 0.16).item() == pytest.approx(math.sqrt(0.08 * 0.16))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule)
@pytest.mark.parametrize("mdp", ["one_layer", "two_layer", "hybrid"])
def test_scoring_repeats_sampling(rule, mdp):
    normals, uniforms = torch.randn(B, 5, H, D), torch.tensor([0.0, 0.3, 0.99])
    on = chain.stochastic_steps(mdp, "env", uniforms, 4)
    states, sampled = chain.sample(toy_velocity, normals, on, rule, toy_noise_net)
    steps = chain.scored_steps(mdp, on)
    scored = chain.score(toy_velocity, states, steps, on, rule, toy_noise_net)
    rows = torch.arange(B)[:, None]
    torch.testing.assert_close(scored.log_prob, sampled.log_prob[rows, steps], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(scored.entropy, sampled.entropy[rows, steps])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule)
def test_log_density_is_torchs(rule):
    x, step, on = torch.randn(B, H, D), torch.tensor([0, 1, 2]), torch.ones(B, dtype=torch.bool)
    mean, std, _ = chain.transition(toy_velocity, x, step, 4, on, rule, toy_noise_net)
    following = torch.randn(B, H, D)
    torch.testing.assert_close(chain.log_density(following, mean, std), Normal(mean, std).log_prob(following))
    torch.testing.assert_close(chain.entropy(std), Normal(mean, std).entropy())


def test_deterministic_elements_count_nothing():
    zero = torch.zeros(2, 2)
    assert (chain.log_density(torch.ones(2, 2), zero, zero) == 0).all()
    std = torch.zeros(2, 2, requires_grad=True)
    chain.log_density(torch.ones(2, 2), zero, std).sum().backward()
    assert std.grad is not None and torch.isfinite(std.grad).all()


def test_exact_joint_is_eq_5():
    normals, on = torch.randn(B, 5, H, D), torch.ones(B, 4, dtype=torch.bool)
    rule = RULES[3]
    states, scored = chain.sample(toy_velocity, normals, on, rule, toy_noise_net)
    joint = chain.reduce_log_prob(scored.log_prob, states[:, 0], "one_layer", "sum")
    expected = Normal(0.0, 1.0).log_prob(states[:, 0]).sum((1, 2))
    for k in range(4):
        mean, std, _ = chain.transition(
            toy_velocity, states[:, k], torch.full((B,), k), 4, on[:, k], rule, toy_noise_net
        )
        expected = expected + Normal(mean, std).log_prob(states[:, k + 1]).sum((1, 2))
    torch.testing.assert_close(joint[:, 0], expected)
    official = chain.reduce_log_prob(scored.log_prob, states[:, 0], "one_layer", "official")
    torch.testing.assert_close(official, joint / 5)
    mean = chain.reduce_log_prob(scored.log_prob, states[:, 0], "one_layer", "mean")
    torch.testing.assert_close(mean, joint / (5 * H * D))


def test_two_layer_keeps_a_ratio_a_step():
    log_prob, start = torch.randn(B, 4, H, D), torch.randn(B, H, D)
    torch.testing.assert_close(chain.reduce_log_prob(log_prob, start, "two_layer", "sum"), log_prob.sum((2, 3)))


def test_hybrid_draw():
    uniforms = torch.rand(4000, generator=torch.Generator().manual_seed(1))
    each = chain.stochastic_steps("hybrid", "env", uniforms, 4)
    assert (each.sum(1) == 1).all()
    assert each.double().mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.03)
    together = chain.stochastic_steps("hybrid", "batch", uniforms, 4)
    assert (together == together[0]).all() and (together.sum(1) == 1).all()


def test_gradient_of_log_prob_against_finite_differences():
    torch.manual_seed(3)
    weight = torch.randn(D, D) * 0.3
    normals, on = torch.randn(2, 4, 2, D), torch.ones(2, 3, dtype=torch.bool)
    rule = Noise("flow_sde", 0.5, 0, 0)

    def field(w):
        return lambda x, tau: (x @ w + tau[:, None, None], x)

    states, _ = chain.sample(field(weight), normals, on, rule, None)

    def log_pi(w):
        scored = chain.score(field(w), states, chain.scored_steps("one_layer", on), on, rule, None)
        return chain.reduce_log_prob(scored.log_prob, states[:, 0], "one_layer", "sum").sum()

    assert torch.autograd.gradcheck(log_pi, (weight.requires_grad_(),))


def test_schedules():
    assert noise.scheduled("constant", 0.5, 0.1, 0.9) == 0.5
    assert noise.scheduled("linear", 0.5, 0.1, 0.5) == pytest.approx(0.3)
    assert noise.scheduled("reinflow", 0.16, 0.1, 0.35) == 0.16
    assert noise.scheduled("reinflow", 0.16, 0.1, 1.0) == pytest.approx(0.1)
    assert noise.scheduled("reinflow", 0.16, 0.1, 0.675) == pytest.approx(0.13)

"""ReinFlow: the bounded chain and its density, the running scale of rewards, the ratio of the first minibatch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from pirl_core import seeds
from pirl_core.flow import chain
from pirl_core.flow.chain import Noise
from pirl_core.flow.noise import bounded_std
from pirl_core.policy.context import Context
from pirl_core.rl.advantages import RewardScale, discounted_so_far
from pirl_core.rl.collect import collect
from pirl_core.rl.train import noise_at, parameter_groups, process_of
from pirl_core.rl.update import update
from pirl_core.training.learner import Learner
from pirl_core.types import ChunkResult, Episode, Observation
from tests.policy.test_mlp import make, observed
from tests.rl.test_rl import rl_params

REINFLOW = {
    "noise_rule": "learned", "mdp": "one_layer", "noise_schedule": "reinflow", "logprob_reduction": "mean",
    "critic": "vlm", "chain_bound": 1.0, "reward_scale": True, "clip_ratio": 0.01, "entropy_coef": 0.03,
    "noise_min_std": 0.1, "noise_max_std": 0.24, "iterations": 9,
}  # fmt: skip


def wild(x: torch.Tensor, tau: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A velocity that leaves any bound."""
    return 6 * x.sign(), x.mean(2, keepdim=True)


def net(features: torch.Tensor) -> torch.Tensor:
    return features.expand(-1, -1, 3)


def test_a_bounded_chain_stays_within_and_is_scored_as_the_normal_that_it_was_cut_from() -> None:
    """Mean of each step clamp(x + v / K), draws within three std, the last state within the bound: by torch's own
    Normal."""
    noise, K = Noise("learned", 0.0, 0.1, 0.24, bound=1.0), 4
    normals = 2 * torch.randn(50, K + 1, 4, 3, generator=torch.Generator().manual_seed(0))
    every = torch.ones(50, K, dtype=torch.bool)
    states, score = chain.sample(wild, normals, every, noise, net)
    for k in range(K):
        x = states[:, k]
        mean = (x + wild(x, x)[0] / K).clamp(-1, 1)
        std = bounded_std(net(wild(x, x)[1]), 0.1, 0.24)
        drawn = mean + std * normals[:, k + 1].clamp(-3, 3)
        torch.testing.assert_close(states[:, k + 1], drawn.clamp(-1, 1) if k == K - 1 else drawn)
        expected = Normal(mean, std).log_prob(states[:, k + 1])
        torch.testing.assert_close(score.log_prob[:, k], expected, atol=1e-5, rtol=1e-5)
    assert states[:, -1].abs().max() <= 1 < states[:, 1].abs().max() and (normals.abs() > 3).any()
    again = chain.score(wild, states, torch.arange(K).expand(50, -1), every, noise, net)
    assert torch.equal(again.log_prob, score.log_prob) and torch.equal(again.entropy, score.entropy)


def test_without_a_bound_it_is_the_chain_that_it_was() -> None:
    normals = torch.randn(5, 5, 4, 3, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    every = torch.ones(5, 4, dtype=torch.bool)
    wide, none = (chain.sample(wild, normals, every, Noise("learned", 0.0, 0.1, 0.24, b), net)[0] for b in (1e6, None))
    assert torch.equal(wide, none)


def test_the_running_scale_is_that_of_all_returns_so_far() -> None:
    rng, scale, seen = np.random.default_rng(0), RewardScale(0.9, {}), []
    for size in (7, 1, 40):
        reward, last = 5 * rng.standard_normal(size), rng.random(size) < 0.3
        last[-1] = True
        total, fresh = 0.0, []
        for r, over in zip(reward, last, strict=True):
            total = 0.9 * total + r
            fresh.append(total)
            total = 0.0 if over else total
        np.testing.assert_allclose(discounted_so_far(reward, last, 0.9), fresh)
        seen += fresh
        found = scale.scaled(reward, last)
        np.testing.assert_allclose(found, (reward / np.sqrt(np.var(seen) + 1e-8)).clip(-10, 10), rtol=1e-6)
        scale = RewardScale(0.9, scale.numbers)  # as a resumed run does


class Walk:
    """A world of two decisions an episode, that pays for what is small."""

    num_envs = 8
    groups = 1

    def reset(self, slots: list[int], episodes: list[Episode]) -> Observation:
        self.left = dict.fromkeys(slots, 2) | {s: n for s, n in getattr(self, "left", {}).items() if s not in slots}
        return observed(len(slots))

    def step(self, slots: list[int], actions: np.ndarray) -> ChunkResult:
        for slot in slots:
            self.left[slot] -= 1
        over = np.array([self.left[slot] == 0 for slot in slots])
        reward = -np.square(actions).sum((1, 2)).astype(np.float32)
        fell = over & (np.arange(len(slots)) % 2 == 0)
        return ChunkResult(observed(len(slots)), reward, fell, over & ~fell, np.full(len(slots), 4))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_ratio_is_one_and_the_upper_bound_alone_decays(seed: int) -> None:
    policy, rl = make("S", seed), rl_params(**REINFLOW, episodes_per_iteration=8, update_epochs=2, minibatch_size=8)
    torch.manual_seed(seed)
    process = process_of(rl)
    policy.add_heads(process, 4, True)
    learner = Learner(policy, parameter_groups(policy, rl), 0.0, 1.0, "fp32", 0)
    bounds = []
    for iteration in (0, 5, 8):
        noise = noise_at(rl, iteration)
        bounds.append(noise.max_std)
        assert noise.min_std == 0.1 and noise.bound == 1.0
        episodes = [Episode("Hopper-v5", seeds.train_seed(0, "Hopper-v5", n)) for n in range(8)]
        rollout, share, _ = collect(
            policy, Walk(), episodes, noise, process, rl, (seed, iteration), RewardScale(0.9, {})
        )
        rng = np.random.default_rng(iteration)
        metrics = update(learner, rollout, share, noise, process, rl, rng, False, iteration)
        assert metrics["losses/first_ratio_error"] < 1e-6 and metrics["charts/updates"] > 0
    assert bounds[0] == 0.24 > bounds[1] > bounds[2] == pytest.approx(0.3 * 0.1 + 0.7 * 0.24)


def test_the_bound_goes_into_the_policy_folder_where_there_is_one(tmp_path: Path) -> None:
    from pirl_core.policy.exploration import load_exploration, save_exploration

    policy = make("S")
    policy.add_heads(process_of(rl_params(**REINFLOW)), 4, True)
    for bound in (1.0, None):
        noise = Noise("learned", 0.0, 0.1, 0.24, bound)
        save_exploration(policy, noise, "one_layer", tmp_path)
        assert load_exploration(tmp_path, policy.backbone.shape, "after").noise == noise
    assert "bound" not in (tmp_path / "exploration.json").read_text()


@pytest.mark.parametrize("coef", [0.0, 0.7])
def test_the_w2_anchor_adds_its_gradient_and_nothing_else(coef: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """∇(L_PPO + c W2) = ∇L_PPO + c ∇W2, the last by Euler's steps of both policies, unrolled by hand."""
    found: list[list[torch.Tensor]] = []

    def keep(learner: Learner, loss: torch.Tensor, *_: Any) -> float:
        learner.accelerator.backward(loss)
        found.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in policy.backbone.parameters()])
        learner.discard()
        return 1.0

    monkeypatch.setattr(Learner, "step", keep)
    reference, start = make("nano", 5).backbone.requires_grad_(False), torch.empty(0)
    for anchored in (False, True):
        policy = make("nano", 0)
        torch.manual_seed(0)
        rl = rl_params(
            **REINFLOW, episodes_per_iteration=8, update_epochs=1, minibatch_size=99, w2_coef=coef * anchored
        )
        process, noise = process_of(rl), noise_at(rl, 0)
        policy.add_heads(process, 4, True)
        policy.reference = reference if rl.w2_coef else None
        learner = Learner(policy, parameter_groups(policy, rl), 0.0, 1.0, "fp32", 0)
        episodes = [Episode("Hopper-v5", seeds.train_seed(0, "Hopper-v5", n)) for n in range(8)]
        scale = RewardScale(0.9, {})
        rollout, share, _ = collect(policy, Walk(), episodes, noise, process, rl, (0, 0), scale)
        start = rollout.samples.states[:, 0]
        metrics = update(learner, rollout, share, noise, process, rl, np.random.default_rng(0), False, 0)
        assert ("losses/w2" in metrics) == bool(rl.w2_coef)
    plain, both = found
    if not coef:
        assert all(torch.equal(a, b) for a, b in zip(plain, both, strict=True))
        return
    context = next(rollout.contexts.batches(iter([np.arange(len(start))])))
    assert isinstance(context, Context)
    ends = []
    for backbone in (policy.backbone, reference):
        x = start
        for k in range(4):
            x = x + backbone.velocity(context, x, torch.full((len(x),), k / 4))[0] / 4
        ends.append(x)
    w2 = (ends[0] - ends[1]).square().mean()
    assert metrics["losses/w2"] == pytest.approx(w2.item(), rel=1e-5)
    slopes = torch.autograd.grad(w2, list(policy.backbone.parameters()))
    for a, b, slope in zip(plain, both, slopes, strict=True):
        torch.testing.assert_close(b, a + coef * slope, atol=1e-6, rtol=1e-3)

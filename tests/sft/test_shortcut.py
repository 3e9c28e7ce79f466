"""The shortcut model: its target in closed form, what it is asked in SFT, and the length that a chain tells it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pirl_core.flow import path
from pirl_core.params.sections import Sft
from pirl_core.policy.backbone import new_backbone, new_shape
from pirl_core.policy.context import DataSizes
from pirl_core.policy.flow_policy import FlowMatching, FlowPolicy, Noisy
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.policy.normalize import Affine, Normalization
from pirl_core.policy.tokenizer import build_tokenizer
from pirl_core.sft.batches import draw_samples
from pirl_core.sft.shortcut import FINEST, consistent, with_steps
from pirl_core.training.learner import Learner
from pirl_core.types import Observation
from tests.sft.test_sft import BASE

SFT = Sft.model_validate(BASE)


def make(family: str = "shortcut", steps: int = 4, size: str = "nano") -> FlowPolicy:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["Hopper"])
    shape = new_shape(family, size, DataSizes(32, 0, tokenizer.get_vocab_size(), 2, 11, 3, 4))  # type: ignore[arg-type]
    same = Normalization(Affine([0.1] * 11, [0.5] * 11), Affine([0.2] * 3, [0.6] * 3), 0)
    return FlowPolicy(new_backbone(shape), tokenizer, "words", same, 4, steps).eval()


def observed(count: int) -> Observation:
    state = np.random.default_rng(0).standard_normal((count, 11)).astype(np.float32)
    return Observation(np.zeros((count, 0, 32, 32, 3), np.uint8), state, ["Hopper"] * count)


@pytest.mark.parametrize("rate", [-2.0, 0.5, 3.0])
def test_a_linear_field_s_own_steps_are_consistent(rate: float) -> None:
    """x' = c x goes (e^(c d) - 1) x in d: this average velocity is what its two halves say, for every d."""

    def average(x: torch.Tensor, tau: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return torch.expm1(rate * step)[:, None, None] / step[:, None, None] * x

    x = torch.randn(6, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = 2.0 ** -torch.arange(6, dtype=torch.float64)
    target = path.shortcut_target(average, x, torch.zeros(6, dtype=torch.float64), step)
    torch.testing.assert_close(target, average(x, step, step))


def test_halves_are_asked_where_they_are() -> None:
    """v = x + 10 τ + 100 d, by hand: x = 1, τ = 1/2, d = 1/2."""
    one = torch.ones(1, 1, 1)
    target = path.shortcut_target(
        lambda x, tau, step: x + (10 * tau + 100 * step)[:, None, None], one, torch.tensor([0.5]), torch.tensor([0.5])
    )
    first = 1 + 5 + 25
    assert target.item() == pytest.approx((first + (1 + first / 4) + 7.5 + 25) / 2)


def test_a_quarter_is_asked_of_steps_that_end_in_time() -> None:
    drawn = draw_samples(np.random.default_rng(0), 50, 4000, (4, 3), SFT)
    asked = with_steps(np.random.default_rng(1), drawn)
    assert asked.step is not None
    step, tau = asked.step[:1000], asked.tau[:1000]
    assert set(step.tolist()) == {2.0**-k for k in range(FINEST)}
    assert torch.equal(tau / step, (tau / step).round()) and bool((tau + step <= 1).all())
    assert not asked.step[1000:].any() and torch.equal(asked.tau[1000:], drawn.tau[1000:])
    assert asked.noise is drawn.noise and asked.rows is drawn.rows


def test_the_target_is_the_model_s_own_where_a_step_is_asked_and_has_no_gradient() -> None:
    policy = make()
    learner = Learner(
        FlowMatching(policy.backbone), [{"params": policy.backbone.parameters(), "lr": 1.0}], 0, 1, "fp32", 0
    )
    point = Noisy(
        policy.inputs(observed(3)), torch.randn(3, 4, 3), torch.tensor([0.3, 0.5, 0.0]), torch.tensor([0, 0.5, 1])
    )
    flow = torch.randn(3, 4, 3)
    target = consistent(learner, point, flow)
    assert not target.requires_grad and torch.equal(target[0], flow[0])
    context = policy.backbone.encode(point.inputs)
    assert point.step is not None
    half: torch.Tensor = point.step / 2
    first = policy.backbone.velocity(context, point.x, point.tau, half)[0]  # type: ignore[call-arg]
    after = point.x + half[:, None, None] * first
    second = policy.backbone.velocity(context, after, point.tau + half, half)[0]  # type: ignore[call-arg]
    torch.testing.assert_close(target[1:], ((first + second) / 2)[1:])


@pytest.mark.parametrize("steps", [1, 4])
def test_a_chain_tells_it_the_length_of_its_steps(steps: int, tmp_path: Path) -> None:
    policy = make(steps=steps)
    save_policy(policy, tmp_path)
    policy = load_policy(tmp_path)
    context, start = policy.encode(observed(5)), torch.randn(5, 4, 3)
    x = start
    for k in range(steps):
        tau, step = torch.full((5,), k / steps), torch.full((5,), 1 / steps)
        x = x + policy.backbone.velocity(context, x, tau, step)[0] / steps  # type: ignore[call-arg]
    torch.testing.assert_close(policy.act(context, start), x.detach() * 0.6 + 0.2)
    assert not torch.equal(x, start + policy.backbone.velocity(context, start, torch.zeros(5))[0])


def test_time_and_length_share_an_embedding_as_in_the_released_code() -> None:
    """Linear(32, 16) and Linear(16, 16), where the rectified flow has Linear(16, 32) and Linear(32, 16)."""
    counts = {name: sum(p.numel() for p in make(name, size="S").backbone.parameters()) for name in ("mlp", "shortcut")}
    assert counts["mlp"] - counts["shortcut"] == (17 * 32 + 33 * 16) - (33 * 16 + 17 * 16)

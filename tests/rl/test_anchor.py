"""RL-Co: the anchor adds its gradient and nothing else, and its batches depend on neither ranks nor parts."""

from typing import Any

import numpy as np
import pytest
import torch

from pirl_core.data.lerobot import Frames
from pirl_core.flow import path
from pirl_core.params.sections import Rl, Sft
from pirl_core.policy.anchored import AnchoredPolicy
from pirl_core.policy.flow_policy import FlowMatching, FlowPolicy
from pirl_core.policy.lora import EncodingPolicy, add_adapters
from pirl_core.rl.anchor import Anchor
from pirl_core.rl.collect import collect
from pirl_core.rl.train import noise_at, parameter_groups, process_of
from pirl_core.rl.update import SFT_LOSS, update
from pirl_core.sft.batches import batch_of, noised, shown
from pirl_core.training.learner import Learner
from pirl_core.training.ranks import Ranks
from pirl_core.types import Episode
from tests.rl.test_rl import GRPO, rl_params
from tests.sft.test_sft import BASE, learnable
from tests.worlds import Bandit, small_policy

SFT = Sft.model_validate(BASE)
SIZE = 7


def demonstrations() -> Frames:
    """For ``small_policy`` without cameras, of three action numbers. Chunks of two run past the end of each third."""
    frames = learnable(length=3, cameras=0)
    return frames._replace(actions=frames.actions[:, :3])


def anchor_of(policy: FlowPolicy) -> Anchor:
    return Anchor(policy, demonstrations(), [], SFT, SIZE, seed=0)


def anchored_update(rl: Rl, anchored: bool) -> tuple[FlowPolicy, dict[str, float]]:
    """One iteration on the bandit, from the same weights and the same rollout."""
    torch.set_num_threads(1)
    policy = small_policy(cameras=0, horizon=2, replan=2)
    policy.backbone.freeze_vlm()
    policy.add_heads(process_of(rl), rl.critic_layers, rl.noise_rule == "learned")
    if rl.lora_rank:
        add_adapters(policy.backbone, rl.lora_rank, rl.lora_alpha, rl.lora_targets)
    module = EncodingPolicy(policy) if rl.lora_rank else policy
    learner = Learner(
        AnchoredPolicy(module) if anchored else module, parameter_groups(policy, rl), 0.0, 1e9, "fp32", 0,
        unused=rl.lora_rank > 0,
    )  # fmt: skip
    noise, process, episodes = noise_at(rl, 0), process_of(rl), [Episode("bandit", i) for i in range(24)]
    rollout, share, _ = collect(policy, Bandit(4, 0.8), episodes, noise, process, rl, (0,))
    anchor = anchor_of(policy) if anchored else None
    return policy, update(learner, rollout, share, noise, process, rl, np.random.default_rng(0), False, 0, anchor)


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Of each update, in place of the step."""
    found: list[dict[str, torch.Tensor]] = []

    def keep(learner: Learner, loss: torch.Tensor, *_: Any) -> float:
        learner.accelerator.backward(loss)
        named = [(name.replace("policy.", ""), p.grad) for name, p in learner.module.named_parameters()]
        found.append({name: grad.clone() for name, grad in named if grad is not None})
        learner.discard()
        return 1.0

    monkeypatch.setattr(Learner, "step", keep)
    return found


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "learned noise": {"noise_rule": "learned", "mdp": "one_layer", "entropy_coef": 0.01},
    "grpo": {**GRPO, "group_size": 4},
    "adapters": {"lora_rank": 2},
    "parts": {"micro_batch_size": 5},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_sum(kind: str, gradients: list[dict[str, torch.Tensor]]) -> None:
    """∇(L_PPO + β L_SFT) = ∇L_PPO + β ∇L_SFT, the last by SFT's own module on the anchor's whole batch."""
    beta = 0.3
    rl = rl_params(update_epochs=1, minibatch_size=12, sft_coef=beta, **KINDS[kind])
    anchored_update(rl, anchored=False)
    policy, metrics = anchored_update(rl, anchored=True)
    assert len(gradients) == 4
    data = shown(demonstrations(), [], 2)
    losses = []
    for minibatch, (ppo, both) in enumerate(zip(gradients[:2], gradients[2:], strict=True)):
        batch = batch_of(data, anchor_of(policy).samples(0, minibatch), np.arange(SIZE), SFT)
        point, target = noised(policy, batch, torch.device("cpu"))
        policy.zero_grad()
        loss = path.flow_matching_loss(FlowMatching(policy.backbone)(*point), target, batch.real)
        loss.backward()
        losses.append(loss.item())
        sft = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
        assert len(sft) > 10 and max(float(g.abs().max()) for g in sft.values()) > 0.01
        for name, grad in both.items():
            nothing = torch.zeros_like(grad)
            expected = ppo.get(name, nothing) + beta * sft.get(name, nothing)
            torch.testing.assert_close(grad, expected, atol=2e-5, rtol=1e-4, msg=name)
    assert metrics[SFT_LOSS] == pytest.approx(np.mean(losses), rel=1e-5)


def test_with_a_weight_of_0_it_is_plain_ppo() -> None:
    """Bit for bit, over many updates; the anchor only tells its loss."""
    rl = rl_params(minibatch_size=8)
    plain, metrics = anchored_update(rl, anchored=False)
    other, more = anchored_update(rl, anchored=True)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), other.parameters(), strict=True))
    assert more.pop(SFT_LOSS) > 0 and more == metrics


def test_it_learns_the_demonstrations() -> None:
    """With all weight on them their loss falls, and without it does not."""
    found = {}
    for beta in (0.0, 100.0):
        rl = rl_params(minibatch_size=8, update_epochs=40, sft_coef=beta, actor_lr=1e-3)
        policy, _ = anchored_update(rl, anchored=True)
        one = next(anchor_of(policy).questions(1, 0, 1, Ranks(0, 1), torch.device("cpu")))
        found[beta] = one.loss(FlowMatching(policy.backbone)(*one.point)).item()
    assert found[100.0] < 0.8 * found[0.0], found


@pytest.mark.parametrize(("ranks", "parts"), [(1, 1), (1, 3), (2, 1), (3, 2), (4, 3)])
def test_parts_of_ranks_are_the_batch(ranks: int, parts: int) -> None:
    """Every sample once, and the parts' losses add up to the whole batch's mean."""
    policy = small_policy(cameras=0, horizon=2, replan=2)
    anchor, device = anchor_of(policy), torch.device("cpu")
    field = FlowMatching(policy.backbone)
    whole = next(anchor.questions(2, 5, 1, Ranks(0, 1), device))
    pieces = [q for rank in range(ranks) for q in anchor.questions(2, 5, parts, Ranks(rank, ranks), device)]
    assert len(pieces) == ranks * parts
    assert sorted(t for q in pieces if q.share for t in q.point.tau.tolist()) == sorted(whole.point.tau.tolist())
    total = sum(q.loss(field(*q.point)).item() for q in pieces)
    assert total == pytest.approx(whole.loss(field(*whole.point)).item(), rel=1e-5)


def test_every_minibatch_has_a_batch_of_its_own() -> None:
    anchor = anchor_of(small_policy(cameras=0, horizon=2, replan=2))
    drawn = [anchor.samples(*key).noise.tobytes() for key in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len(set(drawn)) == 4 and anchor.samples(1, 0).noise.tobytes() == drawn[2]

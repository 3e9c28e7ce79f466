"""Which weights are bf16, what that does to the policy folder, and what is lost without fp32 masters."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor, nn

from pirl_core.policy.flow_policy import FlowPolicy, keyed_normals
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.policy.lora import add_adapters, merged
from pirl_core.policy.precision import round_weights
from pirl_core.rl.train import chooses, parameter_groups, train_rl
from pirl_core.training.learner import Learner
from tests.policy.test_families import FAMILIES, make
from tests.rl.test_rl import rl_params
from tests.worlds import Bandit, random_observation, session, small_policy

TAU = torch.tensor([0.123, 0.5001, 0.8765])


def weights(policy: FlowPolicy) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in policy.backbone.state_dict().items()}


def velocity(policy: FlowPolicy) -> Tensor:
    normals = keyed_normals("chunk", [(row,) for row in range(3)], policy.chunk_shape)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        context = policy.encode(random_observation(policy, 3))
        return policy.backbone.velocity(context, normals, TAU)[0].float()


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_rounds_the_frozen_matrices_alone(family: Any) -> None:
    """Norms, buffers, and all that learns, stay as they are; what the network computes is as near as by autocast."""
    policy = make(family)
    policy.backbone.freeze_vlm()
    before = weights(policy)
    buffers = {name: value.clone() for name, value in policy.named_buffers()}
    exact = velocity(policy)
    round_weights(policy, "bf16")
    rounded = {name for name, value in policy.backbone.named_parameters() if value.dtype == torch.bfloat16}
    learning = {name for name, value in policy.backbone.named_parameters() if value.requires_grad}
    assert rounded == set(policy.originals) and not rounded & learning
    frozen = sum(p.numel() for p in policy.backbone.parameters() if not p.requires_grad)
    assert sum(value.numel() for value in policy.originals.values()) > 0.95 * frozen
    for name in before.keys() - rounded - learning:
        assert "norm" in name or "vlln" in name, name
    for name, value in policy.backbone.state_dict().items():
        assert torch.equal(value, before[name].to(value.dtype)), name
    assert all(torch.equal(value, buffers[name]) for name, value in policy.named_buffers())
    assert (velocity(policy) - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("precision", ["bf16", "pure_bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_time_and_positions_are_exact_under_bf16(family: Any, precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embeddings of time and the angles of positions are computed from fp32 or wider, to the last bit, whatever the
    weights are: rounded only as the layer takes them."""
    from pirl_core.policy.families.groot import head as groot_head
    from pirl_core.policy.families.pi0 import gemma
    from pirl_core.policy.families.pi0 import network as pi0
    from pirl_core.policy.families.smolvla import network as smolvla

    seen: list[Tensor] = []

    def spied(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            result = function(*arguments)
            seen.extend(result if isinstance(result, tuple) else [result])
            return result

        return call

    def recorded(policy: FlowPolicy) -> list[Tensor]:
        seen.clear()
        velocity(policy)
        return list(seen)

    for module in (pi0, smolvla):
        monkeypatch.setattr(module, "time_embedding", spied(gemma.time_embedding))
        # In fp32, to compare before the cast to the layers' type.
        monkeypatch.setattr(
            module, "rotary_embedding", spied(lambda p, width, _: gemma.rotary_embedding(p, width, torch.float32))
        )
    monkeypatch.setattr(groot_head, "sinusoid", spied(groot_head.sinusoid))
    policy = make(family)
    if family == "groot":
        rotary = policy.backbone.get_submodule("language_model.rotary_emb")
        rotary.register_forward_hook(lambda *parts: seen.extend(value.float() for value in parts[2]))
    policy.backbone.freeze_vlm()
    want = recorded(policy)
    round_weights(policy, precision)
    found = recorded(policy)
    assert len(found) == len(want) >= 3
    for one, other in zip(found, want, strict=True):
        atol = 4e-3 if family == "groot" else 0.0  # Qwen's own angles come in the layers' type
        torch.testing.assert_close(one, other, atol=atol, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_velocity_changes_no_context(family: Any) -> None:
    """transformers' cache grows at each call; ours is only read, so the second velocity is the first."""
    policy = make(family)
    normals = keyed_normals("chunk", [(row,) for row in range(3)], policy.chunk_shape)
    with torch.no_grad():
        context = policy.encode(random_observation(policy, 3))
        before = [part.clone() for part in context]
        first = policy.backbone.velocity(context, normals, TAU)[0]
        policy.backbone.velocity(context, normals + 1, TAU / 2)
        again = policy.backbone.velocity(context, normals, TAU)[0]
    assert torch.equal(first, again)
    assert all(torch.equal(part, was) for part, was in zip(context, before, strict=True))


@pytest.mark.parametrize("precision", ["bf16", "pure_bf16"])
@pytest.mark.parametrize("rank", [0, 2])
def test_the_folder_keeps_the_frozen_weights_bit_for_bit(rank: int, precision: str, tmp_path: Path) -> None:
    """All of them fp32; what adapters changed is the fp32 original with their product added, not the rounded one."""
    policy = small_policy(cameras=0, horizon=2, replan=2)
    source = weights(policy)
    rl = rl_params(
        iterations=2, episodes_per_iteration=32, precision=precision, lora_rank=rank, lora_alpha=3, validate_every=1
    )
    with session(tmp_path, rl.iterations) as opened:
        score = {0: 0.1, 1: 0.2, 2: 0.3}
        train_rl(
            policy, Bandit(4, 0.8), ["b"], "none", rl, 0, opened, lambda i: {chooses("success"): score[i]},
            lambda: save_policy(policy, opened.policy),
        )  # fmt: skip
    (tmp_path / "last").mkdir()
    save_policy(policy, tmp_path / "last")
    kept, last = (load_file(tmp_path / folder / "model.safetensors") for folder in ("policy", "last"))
    assert source.keys() == kept.keys() and {value.dtype for value in kept.values()} == {torch.float32}
    assert all(torch.equal(kept[name], last[name]) for name in source)
    adapters = load_file(tmp_path / "policy/adapter.safetensors") if rank else {}
    layers = {name.split(".lora_")[0] for name in adapters}
    vlm = [name for name in source if ".vlm." in name]
    assert len(layers) == (6 if rank else 0) and len(vlm) > 10
    for name in vlm:
        layer = name.removesuffix(".weight")
        if layer in layers:
            product = adapters[f"{layer}.lora_B.weight"] @ adapters[f"{layer}.lora_A.weight"] * 3 / 2
            # Rounded, the weights would be off by 1e-3.
            torch.testing.assert_close(kept[name], source[name] + product, atol=1e-6, rtol=1e-6) if (
                precision == "bf16"
            ) else torch.testing.assert_close(kept[name] - source[name], product.float(), atol=1e-5, rtol=1e-2)
        else:
            assert torch.equal(kept[name], source[name]), name
    assert any(not torch.equal(kept[name], source[name]) for name in source if ".dit." in name)
    # It acts like any other policy.
    loaded = load_policy(tmp_path / "policy")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_merged_leaves_rounded_weights_and_originals_as_they_were() -> None:
    policy = small_policy(horizon=2, replan=2)
    policy.backbone.freeze_vlm()
    add_adapters(policy.backbone, 2, 3, ["q_proj"])
    with torch.no_grad():
        for name, parameter in policy.backbone.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    round_weights(policy, "bf16")
    before, originals = weights(policy), dict(policy.originals)
    with_adapters = velocity(policy)
    with merged(policy):
        assert any(not torch.equal(policy.originals[name], value) for name, value in originals.items())
        assert (velocity(policy) - with_adapters).norm() < 0.03 * with_adapters.norm()
    assert policy.originals.keys() == originals.keys()
    assert all(policy.originals[name] is value for name, value in originals.items())
    assert all(torch.equal(value, before[name]) for name, value in weights(policy).items())


@pytest.mark.parametrize("lr", [5e-6, 1e-5])
def test_pure_bf16_loses_most_updates_of_the_official_size(lr: float) -> None:
    """AdamW with the same gradients, a steady part and noise, on fp32 masters and on bf16 alone: of a transformer's
    weights, which have a std of 0.02, nine of ten do not move at all, and the whole step is far from the exact one."""
    moved = {}
    for precision in ("fp32", "pure_bf16"):
        AcceleratorState._reset_state(reset_partial_state=True)
        policy = make("pi0")
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.02)
        policy.backbone.freeze_vlm()
        round_weights(policy, precision)
        rl = rl_params(actor_lr=lr, weight_decay=0.0)
        learner = Learner(policy, parameter_groups(policy, rl), 0.0, 1e9, precision, 0)
        chosen = {
            name: p for name, p in policy.named_parameters() if ".dit.layers." in name and name.endswith("proj.weight")
        }
        start = {name: p.detach().float().clone() for name, p in chosen.items()}
        generator = torch.Generator().manual_seed(2)
        steady = {name: torch.randn(p.shape, generator=generator) for name, p in chosen.items()}
        for _ in range(100):
            loss = sum(
                ((steady[name] + torch.randn(p.shape, generator=generator)) * p.float()).sum()
                for name, p in chosen.items()
            )
            assert isinstance(loss, Tensor)
            learner.step(loss, loss.item(), 1.0)
        for name, p in chosen.items():
            kinds = {p.dtype, p.grad.dtype if p.grad is not None else p.dtype}
            kinds |= {learner.optimizer.state[p][key].dtype for key in ("exp_avg", "exp_avg_sq")}
            assert kinds == {torch.float32 if precision == "fp32" else torch.bfloat16}, name
        moved[precision] = torch.cat([(p.detach().float() - start[name]).flatten() for name, p in chosen.items()])
    exact, pure = moved["fp32"], moved["pure_bf16"]
    still = (pure == 0).float().mean().item()
    cosine = nn.functional.cosine_similarity(exact, pure, dim=0).item()
    print(f"lr {lr}: {still:.3f} did not move, cosine {cosine:.2f}, norm {(pure.norm() / exact.norm()).item():.2f}")
    assert (exact == 0).float().mean() < 0.01
    assert still > 0.75 and cosine < 0.6 and pure.norm() < 0.6 * exact.norm()

"""LoRA on the VLM: exact merging, a first ratio of 1, gradients through the encoding, and the files it leaves."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from pirl_core.errors import UserError
from pirl_core.policy.flow_policy import FlowPolicy, keyed_normals
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.policy.lora import EncodingPolicy, add_adapters, merge, merged, save_adapters
from pirl_core.rl.collect import collect
from pirl_core.rl.train import chooses, noise_at, parameter_groups, process_of, train_rl
from pirl_core.rl.update import update
from pirl_core.training.learner import Learner
from pirl_core.types import Episode
from tests.policy.test_families import FAMILIES, make
from tests.rl.test_rl import rl_params
from tests.worlds import Bandit, random_observation, session, small_policy

TARGETS = ["q_proj", "v_proj"]


def adapted(cameras: int = 1, targets: list[str] = TARGETS, randomise: bool = True) -> FlowPolicy:
    """A policy with adapters on its frozen VLM; randomised, for B starts at zero and would hide every mistake."""
    policy = small_policy(cameras=cameras, horizon=2, replan=2)
    policy.backbone.freeze_vlm()
    add_adapters(policy.backbone, 3, 5, targets)
    if randomise:
        with torch.no_grad():
            for name, parameter in policy.backbone.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.3)
    return policy


def acts(policy: FlowPolicy) -> Tensor:
    normals = keyed_normals("chunk", [(row,) for row in range(4)], policy.chunk_shape)
    with torch.no_grad():
        return policy.act(policy.encode(random_observation(policy, 4)), normals)


def test_adapters_start_as_nothing_and_sit_on_the_vlm_alone() -> None:
    plain = small_policy(horizon=2, replan=2)
    trained = {name for name, p in plain.backbone.named_parameters()}
    plain.backbone.freeze_vlm()
    trained = {name for name, p in plain.backbone.named_parameters() if p.requires_grad}
    policy = adapted(randomise=False)
    assert torch.equal(acts(policy), acts(plain))
    after = {name for name, p in policy.backbone.named_parameters() if p.requires_grad}
    new = after - trained
    assert trained <= after
    assert new and all(".vlm." in name and "lora_" in name for name in new)
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in new} == set(TARGETS)


def test_merged_is_unmerged() -> None:
    """By the formula W + B A · alpha / rank, and by what the policy does; afterwards all is bit for bit as before."""
    policy = adapted()
    before = {name: value.clone() for name, value in policy.backbone.state_dict().items()}
    wanted = acts(policy)
    assert (wanted - acts(small_policy(horizon=2, replan=2))).abs().max() > 1e-3
    with merged(policy):
        torch.testing.assert_close(acts(policy), wanted, atol=1e-5, rtol=1e-5)
        state = policy.backbone.state_dict()
        assert state.keys() == small_policy(horizon=2, replan=2).backbone.state_dict().keys()
        for name in (name for name in before if name.endswith("lora_A.default.weight")):
            layer = name.removesuffix(".lora_A.default.weight")
            product = before[f"{layer}.lora_B.default.weight"] @ before[name] * 5 / 3
            expected = before[f"{layer}.base_layer.weight"] + product
            torch.testing.assert_close(state[f"{layer}.weight"], expected, atol=1e-6, rtol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in policy.backbone.state_dict().items())
    assert torch.equal(acts(policy), wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_adapters_on_its_vlm(family: str) -> None:
    """They get gradients through the encoding, and merged is unmerged."""
    policy = make(family)
    policy.backbone.freeze_vlm()
    frozen = {id(p) for p in policy.backbone.parameters() if not p.requires_grad}
    add_adapters(policy.backbone, 2, 3, TARGETS)
    adapters = {name: p for name, p in policy.backbone.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for parameter in adapters.values():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    assert all((id(p) in frozen) != p.requires_grad for p in policy.backbone.parameters())
    observation = random_observation(policy, 3)
    normals = keyed_normals("chunk", [(row,) for row in range(3)], policy.chunk_shape)
    velocity, _ = policy.backbone.velocity(policy.encode(observation), normals, torch.full((3,), 0.4))
    found = torch.autograd.grad(velocity.square().sum(), list(adapters.values()), allow_unused=True)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in found) >= len(adapters) / 2
    with torch.no_grad(), merged(policy):
        same, _ = policy.backbone.velocity(policy.encode(observation), normals, torch.full((3,), 0.4))
    torch.testing.assert_close(same, velocity, atol=1e-5, rtol=1e-5)


def test_an_unknown_target_is_named_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"rl.lora_targets = qproj: .*there are .*q_proj"):
        adapted(targets=["qproj"])
    with pytest.raises(UserError, match="action_out_proj"):  # the expert's: trained already
        adapted(targets=["action_out_proj"])


def test_saved_adapters_are_those_of_peft(tmp_path: Path) -> None:
    """On the policy before RL, peft's own loading gives the adapted policy."""
    policy = adapted()
    save_adapters(policy.backbone, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    again = small_policy(horizon=2, replan=2)
    read = LoraConfig(r=config["r"], lora_alpha=config["lora_alpha"], target_modules=config["target_modules"])
    inject_adapter_in_model(read, again.backbone)
    set_peft_model_state_dict(again.backbone, load_file(tmp_path / "adapter.safetensors"))
    torch.testing.assert_close(acts(again), acts(policy), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("micro", [None, 7])
def test_the_vlm_learns_and_the_first_ratio_is_one(micro: int | None) -> None:
    rl = rl_params(lora_rank=3, micro_batch_size=micro, minibatch_size=16, update_epochs=2)
    policy = adapted(cameras=0)
    process, noise = process_of(rl), noise_at(rl, 0)
    policy.add_heads(process, 1, False)
    learner = Learner(EncodingPolicy(policy), parameter_groups(policy, rl), 0.0, 1.0, "fp32", 0)
    before = {name: value.clone() for name, value in policy.backbone.state_dict().items()}
    for iteration in range(2):  # the second rollout is of the VLM as it is by then
        episodes = [Episode("b", index) for index in range(32)]
        rollout, share, told = collect(policy, Bandit(4, 0.8), episodes, noise, process, rl, (0, iteration))
        assert told["charts/context_recomputed_rows"] == 32
        rng = np.random.default_rng(iteration)
        metrics = update(learner, rollout, share, noise, process, rl, rng, False, iteration)
        assert metrics["losses/first_ratio_error"] < 1e-5
    moved = {name for name, value in policy.backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert any(".vlm." in name for name in moved)
    assert not any(".vlm." in name and "lora_" not in name for name in moved)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_training_leaves_a_merged_policy_and_its_adapters(keep: str, tmp_path: Path) -> None:
    """The kept folder loads as any other; source and adapters together make the same VLM."""
    policy = small_policy(cameras=0, horizon=2, replan=2)
    source = {name: value.clone() for name, value in policy.backbone.state_dict().items()}
    rl = rl_params(iterations=2, episodes_per_iteration=32, lora_rank=2, lora_alpha=3, validate_every=1, keep=keep)
    seen: list[Tensor] = []
    with session(tmp_path, rl.iterations) as opened:

        def kept() -> None:
            save_policy(policy, opened.policy)
            seen.append(acts(policy))

        score = {0: 0.1, 1: 0.9}  # the first iteration's is the best
        train_rl(
            policy,
            Bandit(4, 0.8),
            ["b"],
            "none",
            rl,
            0,
            opened,
            lambda i: {chooses("success"): score.get(i, 0.2)},
            kept,
        )
        if keep == "last":
            kept()
    loaded = load_policy(tmp_path / "policy")
    assert torch.equal(acts(loaded), seen[-1])
    assert len(seen) == (3 if keep == "last" else 2)
    adapters = load_file(tmp_path / "policy/adapter.safetensors")
    weights = loaded.backbone.state_dict()
    layers = {name.split(".lora_")[0] for name in adapters}
    assert len(layers) == 6
    for layer in layers:
        product = adapters[f"{layer}.lora_B.weight"] @ adapters[f"{layer}.lora_A.weight"] * 3 / 2
        torch.testing.assert_close(
            weights[f"{layer}.weight"], source[f"{layer}.weight"] + product, atol=1e-6, rtol=1e-6
        )
    assert any(adapters[f"{layer}.lora_B.weight"].abs().max() > 1e-4 for layer in layers)
    # The policy in memory is plain again.
    assert policy.backbone.state_dict().keys() == source.keys()
    assert merge(policy) == {}

"""Layers computed again or compiled: the same numbers, less memory, no compilation for another batch size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from pirl_core.errors import UserError
from pirl_core.policy import layers
from pirl_core.policy.flow_policy import FlowMatching, keyed_normals
from pirl_core.policy.layers import way_to_run
from pirl_core.policy.lora import EncodingPolicy, add_adapters
from pirl_core.rl.collect import collect
from pirl_core.rl.train import noise_at, parameter_groups, process_of
from pirl_core.rl.update import update
from pirl_core.training.learner import Learner
from pirl_core.types import Episode
from tests.policy.test_families import FAMILIES, make
from tests.rl.test_rl import rl_params
from tests.worlds import Bandit, random_observation, small_policy

CPU = torch.device("cpu")


def computed(family: Any, count: int, words: int = 12, **ways: Any) -> tuple[Tensor, dict[str, Tensor], int]:
    """Loss and gradients of SFT's forward, and the bytes that autograd keeps."""
    policy = make(family)
    policy.backbone.run_layer = way_to_run(ways.get("recompute", False), ways.get("compiled", False), CPU)
    inputs = policy.inputs(random_observation(policy, count))
    inputs = inputs._replace(tokens=inputs.tokens[:, :words], tokens_valid=inputs.tokens_valid[:, :words])
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    x = keyed_normals("chunk", [(row,) for row in range(count)], policy.chunk_shape)
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=ways.get("bf16", False)),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        v = FlowMatching(policy.backbone)(inputs, x, torch.linspace(0.1, 0.9, count))
    loss = v.square().sum()
    loss.backward()
    gradients = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    own = {p.untyped_storage()._cdata for p in policy.parameters()}
    return loss.detach(), gradients, sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_computing_layers_again_saves_memory_and_changes_nothing(family: Any, bf16: bool) -> None:
    loss, gradients, kept = computed(family, 4, bf16=bf16)
    again, others, few = computed(family, 4, bf16=bf16, recompute=True)
    assert torch.equal(loss, again) and gradients.keys() == others.keys() and len(gradients) > 30
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-6, rtol=1e-6, msg=name)
    assert few < 0.65 * kept, (few, kept)


@pytest.mark.parametrize("rank", [0, 2])
def test_rl_computes_layers_again_with_the_same_update(rank: int) -> None:
    """Several denoising steps share the layers; with adapters the VLM's are computed again too."""
    results = []
    for recompute in (False, True):
        AcceleratorState._reset_state(reset_partial_state=True)
        policy = small_policy(cameras=0, horizon=2, replan=2)
        rl = rl_params(precision="bf16", critic="expert", mdp="two_layer", lora_rank=rank, update_epochs=1)
        process, noise = process_of(rl), noise_at(rl, 0)
        policy.backbone.freeze_vlm()
        policy.add_heads(process, 1, False)
        if rank:
            add_adapters(policy.backbone, rank, 3, ["q_proj"])
        module = EncodingPolicy(policy) if rank else policy
        learner = Learner(module, parameter_groups(policy, rl), 0.0, 1.0, "bf16", 0, unused=True)
        policy.backbone.run_layer = way_to_run(recompute, False, CPU)
        with learner.accelerator.autocast():
            rollout, share, _ = collect(
                policy, Bandit(4, 0.8), [Episode("b", i) for i in range(16)], noise, process, rl, (0,)
            )
        told = update(learner, rollout, share, noise, process, rl, np.random.default_rng(0), False, 0)
        results.append((told, [p.detach().clone() for p in policy.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(one, other) for one, other in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_layers_compute_the_same(family: Any, recompute: bool) -> None:
    """And other batch sizes and prompt lengths compile nothing anew, but for a batch of one."""
    torch._dynamo.reset()
    layers._compiled.cache_clear()
    for number, (count, words) in enumerate([(4, 12), (6, 9), (5, 7), (3, 11)]):
        plain, gradients, _ = computed(family, count, words)
        with torch._dynamo.config.patch(error_on_recompile=number > 0):
            found, others, _ = computed(family, count, words, compiled=True, recompute=recompute)
        torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)
        for name, gradient in gradients.items():
            scale = gradient.abs().max().item()
            torch.testing.assert_close(others[name], gradient, atol=1e-4 * max(1.0, scale), rtol=1e-3, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_a_compiled_rollout_has_the_ratio_one(rank: int) -> None:
    """Rollouts run without gradient, updates with it: two compilations of the same layers."""
    policy = small_policy(cameras=0, horizon=2, replan=2)
    rl = rl_params(critic="expert", lora_rank=rank, minibatch_size=7)
    process, noise = process_of(rl), noise_at(rl, 0)
    policy.backbone.freeze_vlm()
    policy.add_heads(process, 1, False)
    if rank:
        add_adapters(policy.backbone, rank, 3, ["q_proj"])
    learner = Learner(EncodingPolicy(policy) if rank else policy, parameter_groups(policy, rl), 0.0, 1.0, "fp32", 0)
    policy.backbone.run_layer = way_to_run(False, True, CPU)
    for iteration in range(2):
        episodes = [Episode("b", index) for index in range(16)]
        rollout, share, _ = collect(policy, Bandit(4, 0.8), episodes, noise, process, rl, (0, iteration))
        rng = np.random.default_rng(iteration)
        told = update(learner, rollout, share, noise, process, rl, rng, False, iteration)
        assert told["losses/first_ratio_error"] < 1e-4 and told["charts/skipped_updates"] == 0


def test_a_machine_without_compiler_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch._dynamo.reset()
    monkeypatch.setenv("CXX", str(tmp_path / "missing"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(tmp_path / "missing")))
    with pytest.raises(UserError, match=r"^compile = true: torch.compile does not work here .* set compile: false$"):
        way_to_run(False, True, CPU)

"""What ranks hold and send under FSDP, beside what ``pirl plan`` says: ``python -m tests.training.shard_jobs FILE``.

One update of SFT and of RL, with and without adapters, for every family.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from pirl_core.commands import plan
from pirl_core.params.file import Run, resolve
from pirl_core.plan.model import inputs_of, model_of
from pirl_core.policy.backbone import new_backbone
from pirl_core.policy.flow_policy import FlowMatching, FlowPolicy
from pirl_core.policy.lora import EncodingPolicy, add_adapters
from pirl_core.rl.train import noise_at, parameter_groups, process_of
from pirl_core.stages.launch import choose_sharding
from pirl_core.training.learner import Learner
from pirl_core.training.ranks import join
from tests.commands.test_plan import params
from tests.policy.test_families import FAMILIES

ROWS = 4


def local(tensors: Any) -> int:
    """Bytes of this rank's parts."""
    return sum((part.to_local() if isinstance(part, DTensor) else part).nbytes for part in tensors)


@contextmanager
def counted() -> Iterator[dict[str, float]]:
    """Bytes that a ring would send for the gathers and scatters within the block, and how many there were."""
    sent = {"bytes": 0.0, "calls": 0.0}
    # torch 2.13 renamed them.
    names = ("all_gather_into_tensor", "reduce_scatter_tensor", "all_gather_single", "reduce_scatter_single")
    old = {name: getattr(torch.distributed, name) for name in names if hasattr(torch.distributed, name)}

    def watch(name: str) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            sizes = [part.nbytes for part in (*given, *named.values()) if isinstance(part, Tensor)]
            sent["bytes"] += max(sizes) * (join().size - 1) / join().size
            sent["calls"] += 1
            return old[name](*given, **named)

        return call

    for name in old:
        setattr(torch.distributed, name, watch(name))
    try:
        yield sent
    finally:
        for name, function in old.items():
            setattr(torch.distributed, name, function)


def measured(learner: Learner, loss: Any, module: nn.Module) -> dict[str, float]:
    """One update by the loss that the function gives."""
    assert learner.twin is not None and any(isinstance(part, FSDPModule) for part in learner.module.modules())
    learner.release()
    with counted() as sent:
        value = loss()
        learner.accelerator.backward(value)
    trained = [parameter for parameter in learner.module.parameters() if parameter.requires_grad]
    gradients = local(parameter.grad for parameter in trained if parameter.grad is not None)
    learner.accelerator.clip_grad_norm_(learner.module.parameters(), 1.0)
    learner.optimizer.step()
    state = learner.optimizer.state
    result = {
        # The module and its copy share what is frozen.
        "weights": local({id(p): p for part in (module, learner.module) for p in part.parameters()}.values()),
        "gradients": gradients,
        "optimiser": local(state[p][key] for p in trained if p in state for key in ("exp_avg", "exp_avg_sq")),
        "exchanged": sent["bytes"],
        "calls": sent["calls"],
    }
    before = {name: parameter.numel() for name, parameter in module.named_parameters()}
    learner.gather()
    after = {name: parameter.numel() for name, parameter in module.named_parameters()}
    result["between"] = 4 * (sum(after.values()) - sum(before.values()))
    return result


def real(section: Run) -> FlowPolicy:
    policy = model_of(section)
    torch.manual_seed(0)
    policy.backbone = new_backbone(policy.backbone.shape)
    fresh = policy.to_empty(device="cpu")
    for parameter in fresh.parameters():
        nn.init.normal_(parameter, std=0.1)
    return fresh


def sft(section: Run) -> tuple[dict[str, float], plan.Need]:
    section = section._replace(sft=section.sft.model_copy(update={"batch_size": ROWS * join().size}))
    policy = real(section)
    module = FlowMatching(policy.backbone)
    learner = Learner(module, [{"params": list(module.parameters()), "lr": 1e-3}], 0.0, 1.0, "fp32", 0, unused=True)
    inputs = inputs_of(policy, ROWS)
    x, tau = torch.randn(ROWS, *policy.chunk_shape), torch.rand(ROWS)
    return measured(learner, lambda: learner.module(inputs, x, tau).square().mean(), module), plan.sft_need(
        section, join().size, True
    )


def rl(section: Run, rank: int) -> tuple[dict[str, float], plan.Need]:
    changes = {"minibatch_size": ROWS * join().size, "lora_rank": rank, "critic": "expert"}
    section = section._replace(rl=section.rl.model_copy(update=changes))
    policy, rl = real(section), section.rl
    policy.backbone.freeze_vlm()
    if rank:
        add_adapters(policy.backbone, rank, rl.lora_alpha, rl.lora_targets)
    module = EncodingPolicy(policy) if rank else policy
    learner = Learner(module, parameter_groups(policy, rl), 0.0, 1.0, "fp32", 0)
    inputs = inputs_of(policy, ROWS)
    states = torch.randn(ROWS, policy.denoise_steps + 1, *policy.chunk_shape)
    stochastic = torch.arange(policy.denoise_steps).expand(ROWS, -1) == 1
    with torch.no_grad():
        given = inputs if rank else policy.backbone.encode(inputs)

    def loss() -> Tensor:
        result = learner.module(given, states, stochastic, noise_at(rl, 0), process_of(rl))
        return result.log_prob.mean() + result.value.mean()  # type: ignore[no-any-return]

    return measured(learner, loss, module), plan.rl_need(section, join().size, True)


def main() -> None:
    torch.set_num_threads(1)
    choose_sharding()
    join()
    rows: dict[str, Any] = {}
    for family in FAMILIES:
        section = resolve(params(backbone=family), "metaworld", "flow_sde")
        for name, (found, need) in {"sft": sft(section), "rl": rl(section, 0), "lora": rl(section, 2)}.items():
            said = {**need.lasting, "between": sum(need.between.values()), "exchanged": need.exchanged}
            rows[f"{name} {family}"] = {"measured": found, "planned": said}
    if join().main:
        Path(sys.argv[1]).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

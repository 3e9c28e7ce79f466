"""LoRA on the frozen VLM: a layer's weight W becomes W + B A · alpha / rank, and only A and B learn (π_RL App. F.2).

The layers are peft's. ``merged`` gives the policy without them, as a policy folder keeps it; ``save_adapters`` writes A
and B alone.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pirl_core.errors import UserError
from pirl_core.files import write_json, write_tensors
from pirl_core.flow.chain import Noise
from pirl_core.policy.backbone import Backbone
from pirl_core.policy.context import Inputs
from pirl_core.policy.flow_policy import Evaluation, FlowPolicy, Process

ADAPTER = "default"
"""peft's name for the only adapter."""


class EncodingPolicy(nn.Module):
    """The policy with the VLM inside its forward, so that gradients reach the adapters and DDP sees them."""

    def __init__(self, policy: FlowPolicy) -> None:
        super().__init__()
        self.policy = policy

    @property
    def backbone(self) -> Backbone:
        return self.policy.backbone

    def forward(self, inputs: Inputs, states: Tensor, stochastic: Tensor, noise: Noise, process: Process) -> Evaluation:
        """As ``FlowPolicy.forward``, from the network's inputs instead of the context."""
        context = self.policy.backbone.encode(inputs)
        result: Evaluation = self.policy(context, states, stochastic, noise, process)
        return result


def add_adapters(backbone: nn.Module, rank: int, alpha: int, targets: Sequence[str]) -> None:
    """Put adapters on every frozen linear layer whose name ends in one of ``targets``; what learnt before still does.

    B starts at 0, so the policy is the same at first. Raises UserError where a target fits no frozen layer.
    """
    from peft import LoraConfig, inject_adapter_in_model

    frozen = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and not module.weight.requires_grad
    ]
    for target in targets:
        if not any(_fits(name, target) for name in frozen):
            known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in frozen}))
            raise UserError(f"rl.lora_targets = {target}: no frozen linear layer is called so; there are {known}")
    chosen = [name for name in frozen if any(_fits(name, target) for target in targets)]
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen), backbone)
    # peft freezes all but its own.
    for parameter in trained:
        parameter.requires_grad_(True)


def _fits(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")


def merge(policy: FlowPolicy) -> dict[str, nn.Module]:
    """Plain layers with the summed weights take the adapted layers' places; returns the latter by name.

    Where the layer's weight was rounded, its original is what is added to.
    """
    backbone = policy.backbone
    adapted = {name: module for name, module in backbone.named_modules() if hasattr(module, "get_delta_weight")}
    for name, module in adapted.items():
        layer: Any = module
        plain = copy.deepcopy(layer.get_base_layer())
        with torch.no_grad():
            key = f"{name}.weight"
            exact = policy.originals.get(key, plain.weight)
            whole = exact + layer.get_delta_weight(ADAPTER).to(exact)
            if key in policy.originals:
                policy.originals[key] = whole
            plain.weight.copy_(whole)
        backbone.set_submodule(name, plain)
    return adapted


@contextmanager
def merged(policy: FlowPolicy) -> Iterator[None]:
    """Within the block the policy has plain layers; afterwards its adapters are bit for bit what they were."""
    originals = dict(policy.originals)
    adapted = merge(policy)
    try:
        yield
    finally:
        policy.originals = originals
        for name, module in adapted.items():
            policy.backbone.set_submodule(name, module)


def save_adapters(backbone: nn.Module, folder: Path) -> None:
    """adapter.safetensors (A and B of each layer) and adapter_config.json (peft's) in ``folder``, which must exist."""
    from peft import get_peft_model_state_dict

    adapters: dict[str, Tensor] = get_peft_model_state_dict(backbone, adapter_name=ADAPTER)
    write_tensors(folder / "adapter.safetensors", {name: value.contiguous() for name, value in adapters.items()})
    configs: Any = backbone.peft_config
    config = configs[ADAPTER].to_dict()
    write_json(
        folder / "adapter_config.json",
        {name: sorted(value) if isinstance(value, set) else value for name, value in sorted(config.items())},
    )

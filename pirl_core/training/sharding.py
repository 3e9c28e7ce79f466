"""FSDP2, the alternative to DDP: of what is trained each rank keeps a part, with that part's gradient and moments.

FSDP gathers a block's parameters on all ranks at once, in the block's forward and again in its backward. So all ranks
must run it equally often, which rollouts, validation and files do not: episodes end when they end, and the main rank
alone writes. Therefore the policy is never sharded itself. FSDP gets a copy of it for the updates (``Twin``); frozen
parameters, the VLM's in RL, belong to both and stay whole on every rank, and what is trained is gathered into the
policy after the updates, once, and given back before the next ones.
"""

import copy
import os
import warnings
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from pirl_core.errors import UserError

USE_FSDP = "ACCELERATE_USE_FSDP"
"""Accelerate's own variable: `accelerate launch` sets it by its configuration file, the stages by PIRL_SHARDING."""
BLOCKS = {
    "GemmaDecoderLayer", "LlamaDecoderLayer", "Qwen3DecoderLayer", "SiglipEncoderLayer", "SmolVLMEncoderLayer",
    "VLBlock", "DiTBlock",
}  # fmt: skip
"""The repeated blocks of all families, by class: each is gathered, and given back, on its own."""


def wanted() -> bool:
    """Whether this run is to shard."""
    return os.environ.get(USE_FSDP, "").lower() == "true"


def plugin_for(module: nn.Module) -> FullyShardedDataParallelPlugin | None:
    """How Accelerate is to shard ``module``; None where this run is not to.

    Blocks are gathered in float32 and computed on under autocast, as with DDP. Gathered in bf16 they would be half the
    traffic, but norms, embeddings and the critic would then be rounded as DDP does not round them.
    Raises UserError where what is trained is not float32.
    """
    if not wanted():
        return None
    if any(parameter.requires_grad and parameter.dtype != torch.float32 for parameter in module.parameters()):
        raise UserError(
            "FSDP keeps fp32 master weights, so precision: pure_bf16 cannot be; set bf16, or PIRL_SHARDING=ddp"
        )
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=sorted(BLOCKS & {type(part).__name__ for part in module.modules()}),
        mixed_precision_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
        cpu_ram_efficient_loading=False,
        activation_checkpointing=False,
    )


class Twin:
    """A module that stays whole, and the copy of it that FSDP shards; what is frozen belongs to both."""

    def __init__(self, module: nn.Module, accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
        # Blocks return views of keys and values, which nothing here changes in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module")
        # Accelerate 1.15 leaves FSDP off where there is no GPU; all that follows runs there as well.
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
        self.module = module
        frozen = {id(parameter): parameter for parameter in module.parameters() if not parameter.requires_grad}
        # FSDP takes what it keeps out of the module's own memory, block by block: the copy never is a second whole.
        shared = frozen | {id(p): nn.Parameter(p.detach()) for p in module.parameters() if p.requires_grad}
        # For FSDP2 Accelerate's ``prepare`` leaves autocast to the policy above, so the copy gets it here.
        self.copy: nn.Module = accelerator.prepare_model(
            copy.deepcopy(module, dict(shared)), device_placement=False, evaluation_mode=True
        )
        plugin.ignored_modules = [
            part for part in self.copy.modules() if all(id(p) in frozen for p in part.parameters())
        ]

    def groups(self, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Optimiser groups of the module, with the copy's parameters in the places of its own."""
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        own = dict(self.copy.named_parameters())
        return [{**group, "params": [own[names[id(p)]] for p in group["params"]]} for group in groups]

    def gather(self) -> None:
        """The module's trained parameters become those of the copy. All ranks must call it."""
        trained = dict(self.module.named_parameters())
        for name, parameter in self.copy.named_parameters():
            if parameter.requires_grad:
                trained[name].data = whole(parameter.detach())

    def release(self) -> None:
        """The module's trained parameters take no memory; until the next ``gather`` they are of no use either."""
        for parameter in self.module.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.new_empty(0)


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor, gathered on every rank, which all must ask for; another one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """``tensor``, whole and equal on all ranks, on the device of ``like`` and sharded as it is."""
    moved = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return moved
    # Every rank has it all, so that none needs to be sent anything.
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)

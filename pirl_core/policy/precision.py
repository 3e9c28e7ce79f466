"""Which weights are bf16. Buffers, norms and what is outside the transformers stay fp32: no ``.to`` of a whole network.

``bf16``: what does not learn is stored in bf16, for it is computed in bf16 anyway (autocast); what learns has fp32
master weights. ``pure_bf16``: the transformer layers that learn are bf16 too, hence their gradients and AdamW's
moments, without masters, as in the official implementation. There an update below half of bf16's spacing is lost: a
weight of 0.02 has neighbours at a distance of 1e-4, and a learning rate of 5e-6 moves it by 5e-6.
"""

import torch
from torch import nn

from pirl_core.params.sections import Precision
from pirl_core.policy.flow_policy import FlowPolicy

MATRICES = (nn.Linear, nn.Conv2d, nn.Embedding)


def round_weights(policy: FlowPolicy, precision: Precision) -> None:
    """Store the weights as ``precision`` has them, in place; call it when frozen is frozen, before the optimiser.

    A policy that is read from its folder and gets its own ``precision`` decides, bit for bit, as it did in training.
    What was frozen is kept, as it was, in ``policy.originals``, from which the policy folder is written. On the CPU it
    is a page of the source folder's file as long as nobody asks for it.
    """
    policy.precision = precision
    if precision == "fp32":
        return
    backbone = policy.backbone
    vlm = {module for top in backbone.vlm_modules for module in top.modules()}
    stacks = tuple(f"{name}." for name, module in backbone.named_modules() if isinstance(module, nn.ModuleList))
    for name, module in backbone.named_modules():
        # The linear maps of adaptive norms are of the norm.
        if not isinstance(module, MATRICES) or "norm" in name:
            continue
        if not module.weight.requires_grad:
            # An adapted layer's own weight is one level down.
            plain = name.replace(".base_layer", "")
            policy.originals |= {f"{plain}.{key}": value.detach() for key, value in module.named_parameters()}
        elif precision == "bf16" or not (module in vlm or name.startswith(stacks)):
            continue
        module.to(torch.bfloat16)

"""What a decision and an update compute, counted on torch's meta device: floating-point operations, and how many calls
of a kernel they come in."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pirl_core.params.file import Run
from pirl_core.plan.model import evaluations_learned, inputs_of, model_of

if TYPE_CHECKING:
    from pirl_core.policy.flow_policy import FlowPolicy

BACKWARD = 2
"""Times the forward pass: gradients of weights, and of inputs."""


class Amount(NamedTuple):
    """flops: of one row. kernels: whatever the rows."""

    flops: float
    kernels: int

    def times(self, factor: int) -> "Amount":
        return Amount(factor * self.flops, factor * self.kernels)

    def plus(self, other: "Amount") -> "Amount":
        return Amount(self.flops + other.flops, self.kernels + other.kernels)


class Counted(NamedTuple):
    """Of one decision, and of one row of an update, forward and backward. gradient: bytes of what is trained."""

    infer: Amount
    update: Amount
    gradient: float


def counted(run: Run) -> Counted:
    """The VLM runs once a decision, the expert at each denoising step; the update reuses contexts, or with adapters
    runs the VLM too. Heads count for nothing beside them. All that is trained counts in the gradient."""
    from pirl_core.policy.lora import add_adapters

    policy, rl = model_of(run), run.rl
    encode, velocity = amounts(policy)
    policy.backbone.freeze_vlm()
    if rl.lora_rank:
        add_adapters(policy.backbone, rl.lora_rank, rl.lora_alpha, rl.lora_targets)
    width = 2 if rl.precision == "pure_bf16" else 4
    gradient = width * sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad)
    evaluations = evaluations_learned(run)
    learns = velocity.times(evaluations).plus(encode) if rl.lora_rank else velocity.times(evaluations)
    recomputed = 1 if rl.activation_checkpointing else 0
    infer = encode.plus(velocity.times(policy.denoise_steps))
    return Counted(infer, learns.times(1 + recomputed + BACKWARD), float(gradient))


def amounts(policy: "FlowPolicy") -> tuple[Amount, Amount]:
    """Of an encoding, and of one velocity."""
    import torch

    inputs, shape = inputs_of(policy, 1), policy.backbone.shape
    with torch.no_grad():
        context = policy.backbone.encode(inputs)
        x = torch.zeros(1, shape.horizon, shape.action_dim, device="meta")
        tau = torch.zeros(1, device="meta")
        return (
            _amount(lambda: policy.backbone.encode(inputs)),
            _amount(lambda: policy.backbone.velocity(context, x, tau)),
        )


def _amount(call: Callable[[], Any]) -> Amount:
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    class Calls(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            # Views and the like start no kernel.
            self.count += not getattr(function, "is_view", False)
            return function(*args, **(kwargs or {}))

    with FlopCounterMode(display=False) as flops:
        call()
    with Calls() as calls:
        call()
    return Amount(float(flops.get_total_flops()), calls.count)

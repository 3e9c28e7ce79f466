"""``pirl plan``: what a stage will need, before anything starts.

The model stands on torch's meta device, which has no memory; contexts and what the backward pass keeps are counted from
a forward pass there, so they follow the code. What a device's attention kernel keeps differs by a few per cent, and
CUDA's own overhead is a rule of thumb.
"""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pirl_core.errors import UserError
from pirl_core.param_file import Run, load_params, resolve
from pirl_core.params import Params, Precision

if TYPE_CHECKING:
    from pirl_core.policy.flow_policy import FlowPolicy

SUMMARY = "the memory that SFT and RL will need per GPU, part by part, and whether it fits"
GIB = 2**30
# CUDA context, cuBLAS workspaces and the allocator's slack.
OVERHEAD_GIB = 2.0


class Need(NamedTuple):
    """Bytes of one rank by part, bytes that each update exchanges, bytes of contexts in host memory."""

    parts: dict[str, float]
    exchanged: float
    host: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--experiment", help="of params.yaml (default: its first)")
    parser.add_argument("--method", help="of params.yaml (default: its first)")
    parser.add_argument("--gpus", type=int, default=1, help="ranks that share the work (default: %(default)s)")
    parser.add_argument("--gpu-gib", type=float, default=80.0, help="memory of each, in GiB (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Raises UserError for a name that params.yaml does not have, and numbers that make no machine."""
    if args.gpus < 1 or args.gpu_gib <= 0:
        raise UserError(f"--gpus {args.gpus} --gpu-gib {args.gpu_gib}: give at least one GPU with some memory")
    params = load_params()
    experiment = args.experiment or next(iter(params.experiments))
    method = args.method or next(iter(params.methods))
    for line in report(params, experiment, method, args.gpus, args.gpu_gib):
        print(line)


def report(params: Params, experiment: str, method: str, gpus: int, gpu_gib: float) -> list[str]:
    """The table, a line each."""
    section = resolve(params, experiment, method)
    policy = model_of(section)
    counts = parameter_counts(policy)
    lines = [
        f"{experiment}: {section.policy.backbone}, size {section.policy.size}, "
        + ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in counts.items())
        + f" parameters; {gpus} x {gpu_gib:g} GiB"
    ]
    for stage, need in (("sft", sft_need(section, gpus)), (f"rl {method}", rl_need(section, gpus))):
        total = sum(need.parts.values()) + OVERHEAD_GIB * GIB
        lines.append(f"{stage}:")
        lines += [f"  {name:<40}{size / GIB:9.3f} GiB" for name, size in need.parts.items()]
        lines.append(f"  {'CUDA and allocator, by rule of thumb':<40}{OVERHEAD_GIB:9.3f} GiB")
        verdict = "fits" if total <= gpu_gib * GIB else f"does NOT fit: {total / GIB - gpu_gib:.1f} GiB too much"
        lines.append(f"  {'together per GPU':<40}{total / GIB:9.3f} GiB, {verdict}")
        if need.host:
            lines.append(f"  {'contexts in host memory, per rank':<40}{need.host / GIB:9.3f} GiB")
        if gpus > 1:
            lines.append(f"  {'sent per rank and update':<40}{need.exchanged / GIB:9.3f} GiB")
    return lines


def model_of(section: Run) -> "FlowPolicy":
    """The policy as RL has it, critic and noise net included, on torch's meta device."""
    import torch

    from pirl_core.envs.benchmarks import facts_of
    from pirl_core.policy.backbone import new_backbone, new_shape, published_sizes
    from pirl_core.policy.context import DataSizes
    from pirl_core.policy.flow_policy import FlowPolicy
    from pirl_core.policy.normalize import Affine, Normalization
    from pirl_core.policy.tokenizer import build_tokenizer
    from pirl_core.rl.train import process_of

    env, wish = section.env, section.policy
    facts = facts_of(env.benchmark)
    numbers, action_numbers = facts.state_dim(env.object_state), len(facts.action)
    tokenizer = build_tokenizer(facts.sentences(), wish.state_in_prompt)
    if wish.size == "full":
        data = published_sizes(wish.backbone, len(env.cameras), wish.horizon)
    else:
        words = 1 + max(len(tokenizer.encode(text).ids) for text in facts.sentences())
        words += numbers if wish.state_in_prompt else 0
        sizes = (tokenizer.get_vocab_size(), words, numbers, action_numbers, wish.horizon)
        data = DataSizes(env.image_size, len(env.cameras), *sizes)
    state, action = (Affine([0.0] * count, [1.0] * count) for count in (numbers, action_numbers))
    with torch.device("meta"):
        backbone = new_backbone(new_shape(wish.backbone, wish.size, data))
        policy = FlowPolicy(
            backbone, tokenizer, "words", Normalization(state, action, 0), wish.replan, wish.denoise_steps
        )
        policy.add_heads(process_of(section.rl), section.rl.critic_layers, section.rl.noise_rule == "learned")
    return policy


def parameter_counts(policy: "FlowPolicy") -> dict[str, int]:
    """Parameters of the VLM, of the expert with what surrounds it, of critic and noise net."""
    vlm = {id(p) for module in policy.backbone.vlm_modules for p in module.parameters()}
    counts = {"VLM": 0, "expert": 0}
    for parameter in policy.backbone.parameters():
        counts["VLM" if id(parameter) in vlm else "expert"] += parameter.numel()
    for name, head in (("critic", policy.critic), ("noise net", policy.noise_net)):
        if head is not None:
            counts[name] = sum(parameter.numel() for parameter in head.parameters())
    return counts


def sft_need(section: Run, gpus: int) -> Need:
    """One rank of SFT: all parameters learn, the VLM runs with gradient."""
    policy, sft = model_of(section), section.sft
    policy.critic = policy.noise_net = None
    micro = min(sft.micro_batch_size or sft.batch_size, -(-sft.batch_size // gpus))
    kept = micro * saved_bytes(policy, sft.precision, True, sft.activation_checkpointing)
    parts, exchanged = _learning(policy, sft.precision, gpus)
    if sft.ema_decay is not None:
        parts["moving average"] = 4.0 * sum(parameter.numel() for parameter in policy.parameters())
    parts[f"kept for backward, {micro} samples at once"] = kept
    return Need(parts, exchanged, 0)


def rl_need(section: Run, gpus: int) -> Need:
    """One rank of RL: the expert and the heads learn; contexts of one iteration at most, episodes of full length."""
    policy, rl = model_of(section), section.rl
    if rl.lora_rank:
        raise UserError(f"rl.lora_rank = {rl.lora_rank}: pirl plan knows the frozen VLM alone; plan with lora_rank: 0")
    micro = min(rl.micro_batch_size or rl.minibatch_size, -(-rl.minibatch_size // gpus))
    decisions = -(-rl.episodes_per_iteration * -(-section.env.episode_steps // section.policy.replan) // gpus)
    whole = decisions * context_bytes(policy, rl.precision)
    kept = min(whole, rl.context_device_gib * GIB)
    evaluations = 1 if rl.mdp == "hybrid" and rl.critic != "expert" else section.policy.denoise_steps
    each = evaluations * saved_bytes(policy, rl.precision, False, rl.activation_checkpointing)
    each += context_bytes(policy, rl.precision)
    policy.backbone.freeze_vlm()
    parts, exchanged = _learning(policy, rl.precision, gpus)
    parts[f"contexts of {decisions} decisions"] = kept
    parts[f"kept for backward, {micro} chunks at once"] = micro * each
    return Need(parts, exchanged, min(whole - kept, rl.context_host_gib * GIB))


def _learning(policy: "FlowPolicy", precision: Precision, gpus: int) -> tuple[dict[str, float], float]:
    """Weights, gradients, AdamW's two moments and DDP's buckets, once the weights are rounded; and what a rank sends.

    Ring all-reduce: each rank sends 2 (n − 1)/n of the gradients.
    """
    from pirl_core.policy.precision import round_weights

    round_weights(policy, precision)
    weights = float(sum(parameter.nbytes for parameter in policy.parameters()))
    trained = float(sum(parameter.nbytes for parameter in policy.parameters() if parameter.requires_grad))
    parts = {"weights": weights, "gradients": trained, "optimiser": 2 * trained}
    return parts | ({"DDP's buckets": trained} if gpus > 1 else {}), 2 * (gpus - 1) / gpus * trained


def _inputs(policy: "FlowPolicy", count: int) -> Any:
    import torch

    from pirl_core.policy.context import Inputs

    shape = policy.backbone.shape
    with next(policy.backbone.parameters()).device:
        return Inputs(
            torch.zeros(count, shape.cameras, 3, shape.image_size, shape.image_size),
            torch.zeros(count, shape.text_length, dtype=torch.long),
            torch.ones(count, shape.text_length, dtype=torch.bool),
            torch.zeros(count, shape.state_dim),
        )


def context_bytes(policy: "FlowPolicy", precision: str) -> float:
    """Of one decision's context, its prompt as long as it may be."""
    import torch

    with torch.no_grad():
        context = policy.backbone.encode(_inputs(policy, 1))
    # On the meta device autocast does not act: what attends is cached in the precision that it is computed in.
    memory = context.memory.numel() * (4 if precision == "fp32" else 2)
    return float(memory + sum(part.nbytes for part in context[1:]))


def saved_bytes(policy: "FlowPolicy", precision: str, encode: bool, recompute: bool) -> float:
    """What autograd keeps of one sample for the backward pass of one velocity, and of the encoding if it learns too.

    The difference of two batch sizes, so that parameters, kept once, do not count. recompute: the layers' inputs, and
    the inside of the largest layer while it is computed again.
    """
    one, two = (_saved(policy, count, encode, recompute) for count in (1, 2))
    # Under autocast most of it is bf16; normalisations and the residual stream may be fp32.
    return (two - one) * (1.0 if precision == "fp32" else 0.5)


def _saved(policy: "FlowPolicy", count: int, encode: bool, recompute: bool = False) -> int:
    import torch

    from pirl_core.policy.layers import plain, way_to_run

    backbone, shape = policy.backbone, policy.backbone.shape
    inputs = _inputs(policy, count)

    def kept(call: Callable[[], Any]) -> tuple[Any, int]:
        """What ``call`` gives, and the bytes that autograd keeps of it."""
        tensors: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            # Tensors that share memory count once; holding them keeps the addresses apart.
            tensors[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = call()
        return result, sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())

    inside = [0]

    def measured(layer: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        result, size = kept(lambda: layer(*arguments, **named))
        inside.append(size)
        return result

    with torch.no_grad():
        frozen = backbone.encode(inputs)
    device = inputs.state.device
    x = torch.zeros(count, shape.horizon, shape.action_dim, device=device)
    tau = torch.zeros(count, device=device)

    def forward() -> Any:
        return backbone.velocity(backbone.encode(inputs) if encode else frozen, x, tau)

    if recompute:
        backbone.run_layer = measured
        forward()
    backbone.run_layer = way_to_run(recompute, False, device)
    size = kept(forward)[1]
    backbone.run_layer = plain
    return size + max(inside)

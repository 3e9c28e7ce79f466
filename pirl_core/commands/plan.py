"""``pirl plan``: what a stage will need, before anything starts.

The model stands on torch's meta device, which has no memory; contexts and what the backward pass keeps are counted from
a forward pass there, so they follow the code. What a device's attention kernel keeps differs by a few per cent, and
CUDA's own overhead is a rule of thumb.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pirl_core.commands import forecast
from pirl_core.errors import UserError
from pirl_core.params.file import Run, load_params, resolve
from pirl_core.params.sections import Params, Precision
from pirl_core.plan.model import evaluations_learned, inputs_of, model_of, most_decisions
from pirl_core.plan.sweep import Fleet

if TYPE_CHECKING:
    from torch import nn

    from pirl_core.policy.flow_policy import FlowPolicy

SUMMARY = "the memory that SFT and RL will need per GPU, and whether it fits; or how fast RL would be on many"
GIB = 2**30
# CUDA context, cuBLAS workspaces and the allocator's slack.
OVERHEAD_GIB = 2.0


class Need(NamedTuple):
    """Bytes of one rank.

    lasting: what it holds by part, all the time. updating: what it holds in updates alone. between: in rollouts and for
    files alone. exchanged: sent at each update. gathered: sent each time that FSDP makes the policy whole. host:
    contexts, or SAC's replay buffer, in host memory.
    """

    lasting: dict[str, float]
    updating: dict[str, float]
    between: dict[str, float]
    exchanged: float
    gathered: float
    host: float

    @property
    def peak(self) -> float:
        return sum(self.lasting.values()) + max(sum(self.updating.values()), sum(self.between.values()))


class Unit(NamedTuple):
    """What FSDP gathers at once: a block, or all that is in none. trained: bytes. calls: of one forward pass."""

    trained: int
    calls: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--experiment", help="of params.yaml (default: its first)")
    parser.add_argument("--method", help="of params.yaml (default: its first)")
    parser.add_argument("--gpus", type=int, nargs="+", help="ranks that share the work (default: 1)")
    parser.add_argument(
        "--sharding", choices=("ddp", "fsdp"), default="ddp", help="as PIRL_SHARDING (default: %(default)s)"
    )
    parser.add_argument("--gpu-gib", type=float, default=80.0, help="memory of each, in GiB (default: %(default)s)")
    fleet = Fleet()
    add = parser.add_argument_group("how fast it would be").add_argument
    add("--simulate", action="store_true", help="simulate an iteration for numbers of GPUs and simulators instead")
    add("--simulators", type=int, nargs="+", help="environments side by side, of all ranks (default: 64 to 10,000)")
    add("--gpus-per-machine", type=int, default=fleet.per_machine, help="(default: %(default)s)")
    add("--cores-per-gpu", type=int, default=fleet.cores, help="that simulate, here or by Ray (default: %(default)s)")
    add("--costs", type=Path, metavar="FILE", help="what python -m benchmarks.costs measured (default: the project's)")
    add("--figure", type=Path, metavar="FILE", help="draw the table as an SVG")


def run(args: argparse.Namespace) -> None:
    """Raises UserError for a name that params.yaml does not have, and numbers that make no machine."""
    gpus = args.gpus or [1]
    if min(gpus) < 1 or args.gpu_gib <= 0:
        many = " ".join(map(str, gpus))
        raise UserError(f"--gpus {many} --gpu-gib {args.gpu_gib}: give at least one GPU with some memory")
    params = load_params()
    for what, known in (("experiments", params.experiments), ("methods", params.methods)):
        if not known:
            raise UserError(f"params.yaml: {what}: {{}}, so no policy would be trained by RL; take another scale")
    experiment = args.experiment or next(iter(params.experiments))
    method = args.method or next(iter(params.methods))
    if args.simulate:
        fleet = Fleet(args.gpus_per_machine, args.cores_per_gpu)
        section, simulators = resolve(params, experiment, method), args.simulators or forecast.SIMULATORS
        for line in forecast.lines(section, args.gpus or forecast.GPUS, simulators, fleet, args.costs, args.figure):
            print(line, flush=True)
        return
    for count in gpus:
        for line in report(params, experiment, method, count, args.gpu_gib, args.sharding):
            print(line)


def report(params: Params, experiment: str, method: str, gpus: int, gpu_gib: float, sharding: str = "ddp") -> list[str]:
    """The table, a line each."""
    section = resolve(params, experiment, method)
    policy = model_of(section)
    counts = parameter_counts(policy)
    lines = [
        f"{experiment}: {section.policy.backbone}, size {section.policy.size}, "
        + ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in counts.items())
        + f" parameters; {gpus} x {gpu_gib:g} GiB, {sharding}"
    ]
    fsdp = sharding == "fsdp" and gpus > 1
    for stage, need in (("sft", sft_need(section, gpus, fsdp)), (f"rl {method}", rl_need(section, gpus, fsdp))):
        total = need.peak + OVERHEAD_GIB * GIB
        lines.append(f"{stage}:")
        lines += [f"  {name:<44}{size / GIB:9.3f} GiB" for name, size in need.lasting.items()]
        for when, parts in (("in updates", need.updating), ("between updates", need.between)):
            lines += [f"  {f'{when}: {name}':<44}{size / GIB:9.3f} GiB" for name, size in parts.items()]
        lines.append(f"  {'CUDA and allocator, by rule of thumb':<44}{OVERHEAD_GIB:9.3f} GiB")
        verdict = "fits" if total <= gpu_gib * GIB else f"does NOT fit: {total / GIB - gpu_gib:.1f} GiB too much"
        lines.append(f"  {'together per GPU, at most':<44}{total / GIB:9.3f} GiB, {verdict}")
        if need.host:
            what = "replay buffer" if stage != "sft" and section.rl.algorithm == "sac" else "contexts"
            lines.append(f"  {f'{what} in host memory, per rank':<44}{need.host / GIB:9.3f} GiB")
        if gpus > 1:
            lines.append(f"  {'sent per rank and update':<44}{need.exchanged / GIB:9.3f} GiB")
        if need.gathered:
            lines.append(f"  {'sent per rank to make the policy whole':<44}{need.gathered / GIB:9.3f} GiB")
    return lines


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


def sft_need(section: Run, gpus: int, fsdp: bool = False) -> Need:
    """One rank of SFT: all parameters learn, the VLM runs with gradient."""
    policy, sft = model_of(section), section.sft
    policy.critic = policy.noise_net = None
    share = -(-sft.batch_size // gpus)
    micro = min(sft.micro_batch_size or share, share)
    saved = saved_bytes(policy, sft.precision, True, sft.activation_checkpointing)
    need = _learning(policy, sft.precision, 1, -(-share // micro), gpus, fsdp, sft.ema_decay is not None)
    need.updating[f"kept for backward, {micro} samples"] = micro * saved
    return need


def rl_need(section: Run, gpus: int, fsdp: bool = False) -> Need:
    """One rank of RL: expert, heads and adapters learn; contexts of one iteration at most, episodes of full length."""
    from pirl_core.policy.lora import add_adapters

    if section.rl.algorithm == "sac":
        return sac_need(section, gpus)
    policy, rl = model_of(section), section.rl
    policy.backbone.freeze_vlm()
    if rl.lora_rank:
        add_adapters(policy.backbone, rl.lora_rank, rl.lora_alpha, rl.lora_targets)
    share = -(-rl.minibatch_size // gpus)
    micro = min(rl.micro_batch_size or share, share)
    decisions = -(-rl.episodes_per_iteration * most_decisions(section) // gpus)
    evaluations = evaluations_learned(section)
    context = context_bytes(policy, rl.precision)
    velocity, both = (
        saved_bytes(policy, rl.precision, encode, rl.activation_checkpointing) for encode in (False, True)
    )
    # Where the VLM learns it runs anew, with gradient, once for all evaluations; no context is kept.
    saved = evaluations * velocity + context + (both - velocity if rl.lora_rank else 0)
    reference = sum(parameter.nbytes for parameter in policy.backbone.parameters()) if rl.w2_coef else 0
    whole = 0 if rl.lora_rank else decisions * context
    kept = min(whole, rl.context_device_gib * GIB)
    need = _learning(policy, rl.precision, evaluations, -(-share // micro), gpus, fsdp, False)
    if reference:
        need.lasting["the policy before RL (w2_coef)"] = float(reference)
    if whole:
        need.lasting[f"contexts of {decisions} decisions"] = kept
    need.updating[f"kept for backward, {micro} chunks"] = micro * saved
    return need._replace(host=min(whole - kept, rl.context_host_gib * GIB))


def sac_need(section: Run, gpus: int) -> Need:
    """SAC, in its one process: critics, their targets, and the replay buffer, which is host memory.

    Raises UserError for several GPUs.
    """
    import torch

    from pirl_core.rl.sac.model import Batch, SacFlow
    from pirl_core.rl.train import noise_at

    if gpus > 1:
        raise UserError(f"--gpus {gpus}: rl.algorithm = sac runs in one process; give 1")
    policy, rl = model_of(section), section.rl
    states, actions = len(policy.state_center), policy.replan * len(policy.action_center)
    with torch.device("meta"):
        model = SacFlow(policy, rl.sac)

    def update(count: int, part: str) -> None:
        with torch.device("meta"):
            state, row = torch.zeros(count, states), torch.zeros(count)
            action = torch.zeros(count, policy.replan, len(policy.action_center))
            normals = torch.zeros(count, policy.denoise_steps + 1, *policy.chunk_shape)
            model(part, Batch(state, action, row, state, row), normals, noise_at(rl, 0), rl.gamma)

    saved = max(_kept(partial(update, 2, part)) - _kept(partial(update, 1, part)) for part in ("critic", "actor"))
    trained = float(sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad))
    whole = sum(parameter.nbytes for parameter in model.parameters())
    lasting = {"weights": whole, "gradients": trained, "optimiser": 2 * trained}
    buffer = 4.0 * rl.sac.replay_size * (2 * states + actions + 2)
    return Need(
        lasting, {f"kept for backward, {rl.sac.batch_size} decisions": rl.sac.batch_size * saved}, {}, 0, 0, buffer
    )


def _learning(
    policy: "FlowPolicy", precision: Precision, evaluations: int, parts: int, gpus: int, fsdp: bool, average: bool
) -> Need:
    """Weights, gradients, AdamW's two moments, once the weights are rounded; and what DDP or FSDP adds.

    evaluations: of the expert, each forward pass. parts: forward passes of an update.
    """
    from pirl_core.policy.precision import round_weights

    round_weights(policy, precision)
    learning = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    trained = float(sum(parameter.nbytes for parameter in learning))
    frozen = sum(parameter.nbytes for parameter in policy.parameters()) - trained
    part = 1 / gpus if fsdp else 1.0
    lasting = {"weights": frozen + part * trained, "gradients": part * trained, "optimiser": 2 * part * trained}
    if average:
        lasting["moving average"] = 4.0 * part * sum(parameter.numel() for parameter in learning)
    # A ring: each rank sends (n − 1)/n of what is gathered, or reduced and scattered; DDP's all-reduce is both.
    ring = (gpus - 1) / gpus
    if not fsdp:
        buckets = {"DDP's buckets": trained} if gpus > 1 else {}
        return Need(lasting | buckets, {}, {}, 2 * ring * trained, 0, 0)
    blocks, rest = units_of(policy, evaluations)
    largest = max((block.trained for block in blocks), default=0)
    # The rest is gathered from forward to backward, with its gradients; of blocks, the present and the next one.
    updating = {"gathered parameters and gradients": 2.0 * (rest.trained + 2 * largest)}
    # A block is gathered for forward and for backward, and its gradients scattered, at each call.
    sent = parts * ring * (sum(3 * block.calls * block.trained for block in blocks) + 2 * rest.trained)
    return Need(lasting, updating, {"what is trained, gathered": trained}, sent, ring * trained, 0)


def units_of(policy: "FlowPolicy", evaluations: int) -> tuple[list[Unit], Unit]:
    """Its blocks, and all the rest. Those of the VLM run once in a forward pass, the expert's at each evaluation."""
    from pirl_core.training.sharding import BLOCKS

    def learns(module: "nn.Module") -> int:
        return sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)

    vlm = {id(part) for module in policy.backbone.vlm_modules for part in module.modules()}
    found = [module for module in policy.modules() if type(module).__name__ in BLOCKS]
    blocks = [Unit(learns(module), 1 if id(module) in vlm else evaluations) for module in found]
    return blocks, Unit(learns(policy) - sum(block.trained for block in blocks), 1)


def context_bytes(policy: "FlowPolicy", precision: str) -> float:
    """Of one decision's context, its prompt as long as it may be."""
    import torch

    with torch.no_grad():
        context = policy.backbone.encode(inputs_of(policy, 1))
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
    inputs = inputs_of(policy, count)

    inside = [0]

    def measured(layer: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        result = []
        inside.append(_kept(lambda: result.append(layer(*arguments, **named))))
        return result[0]

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
    size = _kept(forward)
    backbone.run_layer = plain
    return size + max(inside)


def _kept(call: Callable[[], Any]) -> int:
    """The bytes that autograd keeps of ``call`` for the backward pass."""
    import torch

    tensors: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # Tensors that share memory count once; holding them keeps the addresses apart.
        tensors[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())

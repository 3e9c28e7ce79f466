"""What SFT and RL share: one module, one optimiser, Accelerate around both.

The learning rate is a pure function of the step count, so nothing but that count needs saving.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from pirl_core.errors import UserError
from pirl_core.training import sharding
from pirl_core.training.ranks import Ranks


def cosine_factor(step: int, total: int, warmup: int, final: float) -> float:
    """Linear warm-up over ``warmup`` steps, then a cosine from 1 to ``final`` at step ``total``."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def compute_device() -> torch.device:
    """Where a learner computes; FSDP copies the module, so what depends on the device is set before."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Learner:
    """Owns the prepared module and the optimiser; ``step`` turns a loss into an update.

    groups: AdamW parameter groups with their base ``lr``, and a ``name`` where ``step`` is to choose one.
    precision: all but fp32 compute in bf16 (autocast), on weights as ``policy.precision`` has stored them.
    max_skipped: so many updates in a row may be skipped because their loss or gradient was not finite.
    unused: whether parameters exist that never reach the loss; DDP looks for them only if told, and else complains.
    ema_decay: keep an exponential moving average of the parameters, which ``use_average`` puts in their place.
    Under FSDP ``self.module`` is a sharded copy of ``module``, which itself is of use from ``gather`` to ``release``.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: list[dict[str, Any]],
        weight_decay: float,
        max_grad_norm: float,
        precision: str,
        max_skipped: int,
        unused: bool = False,
        ema_decay: float | None = None,
    ) -> None:
        plugin = sharding.plugin_for(module)
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="no" if precision == "fp32" else "bf16",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)],
            fsdp_plugin=plugin,
        )
        self.ranks = Ranks(self.accelerator.process_index, self.accelerator.num_processes)
        self.twin: sharding.Twin | None = None
        if plugin and self.accelerator.use_distributed:
            self.twin = sharding.Twin(module, self.accelerator, plugin)
            module, groups = self.twin.copy, self.twin.groups(groups)
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True)
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.module, self.optimizer = self.accelerator.prepare(module, optimizer)
        if self.twin:
            self.twin.module.to(self.device)
        self.max_grad_norm = max_grad_norm
        self.max_skipped = max_skipped
        self.steps = 0
        self.skipped = 0
        self.ema_decay = ema_decay
        self.average = {} if ema_decay is None else {name: p.detach().float().clone() for name, p in self._trained()}

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    def release(self) -> None:
        """Before the first of some updates. Under FSDP ``module`` is then without its trained parameters."""
        if self.twin:
            self.twin.release()

    def gather(self) -> None:
        """After the last of them: ``module`` has the parameters as they are now. All ranks must call it."""
        if self.twin:
            self.twin.gather()

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        """Around forward and ``accumulate`` of each part of a minibatch but the last, whose loss goes to ``step``: with
        DDP the ranks exchange gradients once a minibatch; with FSDP at each part, as no rank is to hold them whole."""
        with nullcontext() if self.twin else self.accelerator.no_sync(self.module):
            yield

    def accumulate(self, loss: Tensor) -> None:
        """Add the gradient of one part of a minibatch to that of the next ``step``."""
        self.accelerator.backward(loss)

    def discard(self) -> None:
        """Forget what was accumulated."""
        self.optimizer.zero_grad()

    def _forget_all_but(self, names: tuple[str, ...]) -> None:
        """The others get no gradient. Of one that is 0 AdamW would count the step, decay the weight, use its memory."""
        for group in self.optimizer.param_groups:
            if group["name"] not in names:
                for parameter in group["params"]:
                    parameter.grad = None

    def step(self, loss: Tensor, total: float, lr_factor: float, only: tuple[str, ...] = ()) -> float | None:
        """One update; returns the gradient norm before clipping.

        loss: this rank's part, or the last of its parts; DDP averages the gradients over the ranks. total: the loss of
        the whole minibatch, the same on every rank. only: the groups that learn, by their names, () for all; the norm
        is their gradient's, and what the others are, moments and step counts included, stays as it is.
        Where loss or gradient is not finite the update is skipped and None comes back; raises UserError after
        ``max_skipped`` of them in a row. A gradient of exactly 0 says nothing (GRPO's, where every group fares alike):
        AdamW's memory and decay do not move the weights then. Every rank sees the same numbers, so all skip or none.
        """
        norm = math.nan
        # A rank must not leave the others alone in the gradients' exchange: the finite test looks at the total.
        if math.isfinite(total):
            self.accelerator.backward(loss)
            if only:
                self._forget_all_but(only)
            norm = float(sharding.whole(self.accelerator.clip_grad_norm_(self.module.parameters(), self.max_grad_norm)))
        if not math.isfinite(norm):
            self.discard()
            self.skipped += 1
            if self.skipped > self.max_skipped:
                raise UserError(
                    f"loss {total} and gradient norm {norm} at update {self.steps}: {self.skipped} in a row were not"
                    " finite (run.max_skipped_updates); lower the learning rate or the noise level"
                )
            return None
        self.skipped = 0
        if norm == 0:
            self.discard()
            return norm
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * lr_factor
        # Accelerate's own step looks for a package on the disk each time: a tenth of an update of a small policy.
        self.optimizer.optimizer.step()
        self.discard()
        self.steps += 1
        if self.ema_decay is not None:
            for name, parameter in self._trained():
                self.average[name].lerp_(parameter.detach().float(), 1 - self.ema_decay)
        return norm

    @torch.no_grad()
    def use_average(self) -> None:
        """Put the moving average in the parameters' place, if there is one."""
        for name, parameter in self._trained():
            if name in self.average:
                parameter.copy_(self.average[name])

    def state(self) -> "LearnerState":
        """What the next update depends on, whole, on the main rank; all ranks must ask. Frozen parameters are left out:
        the source policy has them."""
        tensors = {}
        for name, parameter in self._trained():
            parts = {"parameter": parameter.detach(), **self.optimizer.state[parameter]}
            if name in self.average:
                parts["average"] = self.average[name]
            for key, part in parts.items():
                value = sharding.whole(part)
                if self.ranks.main:
                    tensors[f"{key}/{name}"] = value.cpu().contiguous()
        return LearnerState(tensors, self.steps, self.skipped)

    def restore(self, state: "LearnerState") -> None:
        """Raises KeyError when the state belongs to another module; its fingerprint should have told."""
        self.steps, self.skipped = state.steps, state.skipped
        for name, parameter in self._trained():
            with torch.no_grad():
                parameter.copy_(sharding.placed(state.tensors[f"parameter/{name}"], parameter))
                if name in self.average:
                    self.average[name].copy_(sharding.placed(state.tensors[f"average/{name}"], parameter))
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if f"{key}/{name}" in state.tensors:
                    value = state.tensors[f"{key}/{name}"]
                    # Fused, AdamW keeps its step count with the parameter; it is a plain number under FSDP too.
                    moment = value.to(parameter.device) if key == "step" else sharding.placed(value, parameter)
                    self.optimizer.state[parameter][key] = moment
        self.gather()

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        module = self.accelerator.unwrap_model(self.module)
        return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]


class LearnerState(NamedTuple):
    """tensors: trained parameters and AdamW's moments by name. steps: updates done. skipped: of them in a row."""

    tensors: dict[str, Tensor]
    steps: int
    skipped: int

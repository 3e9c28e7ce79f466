"""What SFT and RL share: one module, one optimiser, Accelerate around both.

The learning rate is a pure function of the step count, so nothing but that count needs saving.
"""

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pirl_core.errors import UserError


def cosine_factor(step: int, total: int, warmup: int, final: float) -> float:
    """Linear warm-up over ``warmup`` steps, then a cosine from 1 to ``final`` at step ``total``."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


class Learner:
    """Owns the prepared module and the optimiser; ``step`` turns a loss into an update.

    groups: AdamW parameter groups with their base ``lr``. precision: bf16 computes under autocast over fp32 masters.
    """

    def __init__(
        self, module: nn.Module, groups: list[dict[str, Any]], weight_decay: float, max_grad_norm: float, precision: str
    ) -> None:
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(), mixed_precision="bf16" if precision == "bf16" else "no"
        )
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=weight_decay)
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.module, self.optimizer = self.accelerator.prepare(module, optimizer)
        self.max_grad_norm = max_grad_norm
        self.steps = 0

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    def step(self, loss: Tensor, lr_factor: float) -> float:
        """One update; returns the gradient norm before clipping. Raises UserError when the loss is not finite."""
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss is {loss.item()} at update {self.steps}: lower the learning rate or the noise level"
            )
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.max_grad_norm)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * lr_factor
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        return float(norm)

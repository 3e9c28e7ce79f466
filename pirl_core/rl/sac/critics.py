"""Twin critics Q(s, a), with batch renormalisation where CrossQ takes the place of target networks.

Axes: B rows, C critics, S state numbers, A action numbers of a chunk, W width.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

CRITICS = 2


class BatchRenorm(nn.Module):
    """Batch renormalisation (Ioffe 2017, as CrossQ has it) of each critic's own features: (C, B, W) → (C, B, W).

    In training the batch's mean and std, corrected towards the running ones by r in [1/3, 3] and d in [−5, 5], which
    are constants to the gradient; in the first ``warmup`` batches uncorrected. Else the running ones.
    """

    momentum, most_r, most_d, epsilon = 0.99, 3.0, 5.0, 1e-3
    mean: Tensor
    std: Tensor
    batches: Tensor

    def __init__(self, width: int, warmup: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(CRITICS, 1, width))
        self.shift = nn.Parameter(torch.zeros(CRITICS, 1, width))
        self.warmup = warmup
        self.register_buffer("mean", torch.zeros(CRITICS, 1, width))
        self.register_buffer("std", torch.ones(CRITICS, 1, width))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self._affine((x - self.mean) / self.std)
        mean = x.mean(1, keepdim=True)
        std = (x.var(1, unbiased=False, keepdim=True) + self.epsilon).sqrt()
        normal = (x - mean) / std
        with torch.no_grad():
            if self.batches >= self.warmup:
                r = (std / self.std).clamp(1 / self.most_r, self.most_r)
                d = ((mean - self.mean) / self.std).clamp(-self.most_d, self.most_d)
            else:
                r, d = torch.ones_like(std), torch.zeros_like(mean)
            self.mean.lerp_(mean, 1 - self.momentum)
            self.std.lerp_(std, 1 - self.momentum)
            self.batches += 1
        return self._affine(normal * r + d)

    def _affine(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Critics(nn.Module):
    """C MLPs of their own, computed side by side: (B, S), (B, A) → (C, B)."""

    def __init__(self, state: int, action: int, width: int, layers: int, renorm_warmup: int | None) -> None:
        """renorm_warmup: batches before ``BatchRenorm`` corrects, in front of each layer; None: no normalisation."""
        super().__init__()
        sizes = [state + action, *[width] * layers, 1]
        self.weights, self.biases, self.norms = nn.ParameterList(), nn.ParameterList(), nn.ModuleList()
        for inner, outer in pairwise(sizes):
            # As nn.Linear draws them.
            bound = inner**-0.5
            self.weights.append(nn.Parameter(torch.empty(CRITICS, inner, outer).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(CRITICS, 1, outer).uniform_(-bound, bound)))
            self.norms.append(nn.Identity() if renorm_warmup is None else BatchRenorm(inner, renorm_warmup))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([state, action], -1).expand(CRITICS, -1, -1)
        last = len(self.weights) - 1
        for number, (norm, weight, bias) in enumerate(zip(self.norms, self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, norm(x), weight)
            x = x if number == last else torch.relu(x)
        return x.squeeze(-1)


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Move the target network's parameters by ``rate`` of the way to the source's."""
    for kept, fresh in zip(target.parameters(), source.parameters(), strict=True):
        kept.lerp_(fresh, rate)

"""Normalisation of states and actions: one affine map a number, whichever statistics it comes from.

Axes: N samples, H horizon, D action numbers, S state numbers, all as the simulator has them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pirl_core.policy.sizes import Mode

# A number that hardly varies in the demonstrations must not be blown up when it varies in the simulator.
MIN_SCALE = 0.01


class Affine(NamedTuple):
    """x ↦ (x − center) / scale, number by number."""

    center: list[float]
    scale: list[float]


class Normalization(NamedTuple):
    """state: (S,) numbers. action: (D,) numbers. delta: so many leading action numbers are learned relative to the
    state's numbers of the same index (π0 on LIBERO: 6), and made absolute again before they act."""

    state: Affine
    action: Affine
    delta: int


def fit(values: np.ndarray, mode: Mode) -> Affine:
    """The map of demonstrations' values (N, numbers): zero mean and unit std (π0), or 1 % and 99 % quantiles (π0.5) or
    extremes (GR00T N1.5) to −1 and 1."""
    values = values.astype(np.float64)
    if mode == "mean_std":
        center, scale = values.mean(0), values.std(0)
    else:
        low, high = np.quantile(values, [0.01, 0.99], axis=0) if mode == "quantile" else (values.min(0), values.max(0))
        center, scale = (low + high) / 2, (high - low) / 2
    return Affine(center.tolist(), np.maximum(scale, MIN_SCALE).tolist())


def published(stats: Mapping[str, Sequence[float]], mode: Mode, epsilon: float) -> Affine:
    """The map of published statistics (mean, std, q01, q99, min, max), as their model was trained with: the lower bound
    goes to −1, and ``epsilon`` is added to the spread (openpi 1e-6, LeRobot 1e-8).

    Without it (GR00T, 0) a number that does not vary goes to 0. Raises KeyError for the statistic that ``mode`` needs
    and ``stats`` lacks.
    """
    first, last = {"mean_std": ("mean", "std"), "quantile": ("q01", "q99"), "min_max": ("min", "max")}[mode]
    low, high = np.array(stats[first], np.float64), np.array(stats[last], np.float64)
    if mode == "mean_std":
        center, spread = low, high + epsilon
    else:
        spread = (high - low) / 2 + epsilon / 2
        center = low + spread
    return Affine(center.tolist(), np.where(spread == 0, 1.0, spread).tolist())


def relative(chunks: np.ndarray, state: np.ndarray, delta: int) -> np.ndarray:
    """Action chunks (N, H, D) with the first ``delta`` numbers relative to state (N, S)."""
    moved = chunks.copy()
    moved[:, :, :delta] -= state[:, None, :delta]
    return moved


def pad_last(x: Tensor, width: int) -> Tensor:
    """Zeros behind the last axis up to ``width``."""
    return torch.nn.functional.pad(x, (0, width - x.shape[-1]))

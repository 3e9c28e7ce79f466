"""Normalisation of states and actions: one affine map a number, whichever statistics it comes from.

Axes: N samples, H horizon, D action numbers, S state numbers, all as the simulator has them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pirl_core.data.variation import STILL
from pirl_core.params.sizes import Mode

# No number of the demonstrations lies further from 0 than this, once normalised.
LIMIT = 10.0
# A number that hardly varies in the demonstrations must not be blown up when it varies in the simulator: a simulator's
# unit (m, rad, a gripper's half way) is at most 100, and 10 for a number that never varied.
MIN_SCALE, STILL_SCALE = 0.01, 0.1
# Of an action number that never varied: it acts as that constant, whatever the network says, and is neither explored
# nor scored (``moving``). At 0.1 the noise of RL tilted a hand that no demonstration had ever tilted.
FIXED_SCALE = STILL
# Of a mode: its lower and its upper statistic; of mean_std: centre and spread.
USED: dict[Mode, tuple[str, str]] = {"mean_std": ("mean", "std"), "quantile": ("q01", "q99"), "min_max": ("min", "max")}


class Affine(NamedTuple):
    """x ↦ (x − center) / scale, number by number."""

    center: list[float]
    scale: list[float]


class Normalization(NamedTuple):
    """state: (S,) numbers. action: (D,) numbers. delta: so many leading action numbers are learned relative to the
    state's numbers of the same index (π0 on LIBERO: 6), and made absolute again before they act. squash: the chain ends
    before a tanh, which keeps the normalised action in (−1, 1) (SAC)."""

    state: Affine
    action: Affine
    delta: int
    squash: bool = False


def fit(values: np.ndarray, mode: Mode, still_scale: float = STILL_SCALE) -> Affine:
    """The map of demonstrations' values (N, numbers): zero mean and unit std (π0), or 1 % and 99 % quantiles (π0.5) or
    extremes (GR00T N1.5) to −1 and 1.

    The extremes take the place of a spread that says nothing of the rare values: where one of the demonstrations would
    lie beyond ``LIMIT`` (a gripper that is closed in 1 frame of 129 has equal quantiles), or where the half range is
    below ``STILL``. No scale is below ``MIN_SCALE`` but ``still_scale``, that of a number that never varied. So in
    every mode the demonstrations lie within ±``LIMIT``, and d simulator units are at most d / ``MIN_SCALE``, of states.
    """
    values = values.astype(np.float64)
    low, high = values.min(0), values.max(0)
    middle, half = (low + high) / 2, (high - low) / 2
    center, scale = middle, half
    if mode == "mean_std":
        center, scale = values.mean(0), values.std(0)
    elif mode == "quantile":
        first, last = np.quantile(values, [0.01, 0.99], axis=0)
        center, scale = (first + last) / 2, (last - first) / 2
    still = half < STILL
    missed = still | (np.maximum(high - center, center - low) > LIMIT * scale)
    center, scale = np.where(missed, middle, center), np.where(missed, half, scale)
    return Affine(center.tolist(), np.where(still, still_scale, np.maximum(scale, MIN_SCALE)).tolist())


def squashed(normalization: Normalization, bound: float | None) -> Normalization:
    """Actions that a tanh keeps within ± ``bound``, the simulator's own; None: within the data's extremes.

    Not within extremes where there is a bound: a policy that shows little of what the robot can do would keep RL from
    the rest of it.
    """
    if bound is None:
        return normalization._replace(squash=True)
    numbers = len(normalization.action.scale)
    return normalization._replace(action=Affine([0.0] * numbers, [bound] * numbers), squash=True)


def moving(action: Affine) -> list[int]:
    """Which action numbers ever varied in the demonstrations; all, where none did."""
    found = [number for number, scale in enumerate(action.scale) if scale > FIXED_SCALE]
    return found or list(range(len(action.scale)))


def published(stats: Mapping[str, Sequence[float]], mode: Mode, epsilon: float) -> Affine:
    """The map of published statistics (mean, std, q01, q99, min, max), as their model was trained with: the lower bound
    goes to −1, and ``epsilon`` is added to the spread (openpi 1e-6, LeRobot 1e-8).

    A number whose spread is below ``STILL`` goes where its model has seen it: its mean to 0, its lower bound to −1, or
    to 0 without an epsilon (GR00T). Its scale is the half range or the std that the statistics also have, the first
    that is not as small, else ``STILL_SCALE``: away from that one value the projects' own maps leave all bounds.

    Raises KeyError for the statistic that ``mode`` needs and ``stats`` lacks.
    """
    first, last = USED[mode]
    low, high = np.array(stats[first], np.float64), np.array(stats[last], np.float64)
    spread = high + epsilon if mode == "mean_std" else (high - low) / 2 + epsilon / 2
    still = spread < STILL
    scale = np.where(still, _other_spread(stats, len(low)), spread)
    center = low if mode == "mean_std" else low + np.where(still & (epsilon == 0), 0, scale)
    return Affine(center.tolist(), scale.tolist())


def _other_spread(stats: Mapping[str, Sequence[float]], numbers: int) -> np.ndarray:
    found = np.full(numbers, STILL_SCALE)
    known = {name: np.array(values, np.float64) for name, values in stats.items() if len(values) == numbers}
    if "std" in known:
        found = np.where(np.isfinite(known["std"]) & (known["std"] >= STILL), known["std"], found)
    if {"min", "max"} <= known.keys():
        with np.errstate(invalid="ignore"):  # of statistics that are not finite, and not used either
            half = (known["max"] - known["min"]) / 2
        found = np.where(np.isfinite(half) & (half >= STILL), half, found)
    return found


def relative(chunks: np.ndarray, state: np.ndarray, delta: int) -> np.ndarray:
    """Action chunks (N, H, D) with the first ``delta`` numbers relative to state (N, S)."""
    moved = chunks.copy()
    moved[:, :, :delta] -= state[:, None, :delta]
    return moved


def pad_last(x: Tensor, width: int) -> Tensor:
    """Zeros behind the last axis up to ``width``."""
    return torch.nn.functional.pad(x, (0, width - x.shape[-1]))

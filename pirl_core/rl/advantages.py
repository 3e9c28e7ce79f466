"""Advantages at chunk level: a chunk of actions is one macro step whose reward is the sum of its rewards (Sec. 4.3.1).

Axes: N decisions of all episodes, flat and in order (an episode's decisions are consecutive).
"""

from collections.abc import Mapping

import numpy as np

MOST_REWARD = 10.0


def discounted_so_far(reward: np.ndarray, last: np.ndarray, gamma: float) -> np.ndarray:
    """G_t = γ G_{t−1} + r_t from each episode's start on. reward, last: (N,) → (N,)."""
    total = np.array(reward, np.float64)
    starts = np.flatnonzero(np.append(True, last[:-1]))
    lengths = np.diff(np.append(starts, len(last)))
    for forward in range(1, lengths.max()):
        at = (starts + forward)[lengths > forward]
        total[at] += gamma * total[at - 1]
    return total


class RewardScale:
    """Rewards over the running std of the discounted return so far, at most ``MOST_REWARD`` (ReinFlow, Sec. C; Engstrom
    et al. 2020). The moments are those of all iterations, the present one among them."""

    def __init__(self, gamma: float, numbers: Mapping[str, float]) -> None:
        """numbers: of a run that is resumed."""
        self._gamma = gamma
        self.numbers = {name: numbers.get(name, 0.0) for name in ("reward_count", "reward_mean", "reward_squares")}

    def scaled(self, reward: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Of one iteration, after whose returns the moments are moved (Chan et al. 1979). Both (N,) → (N,)."""
        fresh = discounted_so_far(reward, last, self._gamma)
        count, mean, squares = self.numbers.values()
        total, shift = count + len(fresh), float(fresh.mean()) - mean
        squares += float(((fresh - fresh.mean()) ** 2).sum()) + shift**2 * count * len(fresh) / total
        mean += shift * len(fresh) / total
        self.numbers = {"reward_count": total, "reward_mean": mean, "reward_squares": squares}
        scaled: np.ndarray = reward / np.sqrt(squares / total + 1e-8)
        return scaled.clip(-MOST_REWARD, MOST_REWARD)


def gae(
    reward: np.ndarray,
    value: np.ndarray,
    last: np.ndarray,
    final_value: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Generalised advantage estimation (Eq. 13): Â_t = Σ_l (γλ)^l T_{t+l}, T_t = r_t + γ V(o_{t+1}) − V(o_t).

    reward, value: (N,). last: (N,) bool, the episode's last decision. final_value: (N,), read where ``last``: 0 after a
    termination, V of the final observation after a time limit. Both cut the recursion; only termination cuts the
    bootstrap. Returns (N,).
    """
    # γλ decays within an episode; running it backwards over positions lets all episodes step together.
    following = np.where(last, final_value, np.append(value[1:], 0))
    error = reward + gamma * following - value
    advantage = np.array(error, np.float64)
    starts = np.flatnonzero(np.append(True, last[:-1]))
    lengths = np.diff(np.append(starts, len(last)))
    for back in range(2, lengths.max() + 1):
        at = (starts + lengths - back)[lengths >= back]
        advantage[at] += gamma * gae_lambda * advantage[at + 1]
    return advantage


def group_advantage(returns: np.ndarray, group_size: int) -> np.ndarray:
    """GRPO: (R − mean) / std within each group of ``group_size`` consecutive episodes from one initial state.

    returns: (E,) → (E,), with mean 0 and std 1 over the episodes of a group (std is that of these numbers, divided by
    the group's size). A group in which all episodes fare alike says nothing: 0. Each decision of an episode gets the
    episode's number as it is: centred again over decisions, of which failures have more, silent groups would speak.
    """
    groups = returns.reshape(-1, group_size)
    spread = groups.std(1, keepdims=True)
    centred = groups - groups.mean(1, keepdims=True)
    advantage: np.ndarray = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-8)
    return advantage.reshape(-1)

"""Advantages at chunk level: a chunk of actions is one macro step whose reward is the sum of its rewards (Sec. 4.3.1).

Axes: N decisions of all episodes, flat and in order (an episode's decisions are consecutive).
"""

import numpy as np


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

"""Small random worlds, and what a policy is worth in them by plain enumeration: nothing here looks at `pirl_core.risk`
but for its data."""

import itertools
from collections.abc import Iterator

import numpy as np

from pirl_core.risk.model import Policy, Pomdp


def random_pomdp(seed: int, H: int = 2, S: int = 3, A: int = 2, observations: int = 3) -> Pomdp:
    """Other probabilities and rewards at each step."""
    rng = np.random.default_rng(seed)
    return Pomdp(
        rng.dirichlet(np.ones(S)),
        rng.dirichlet(np.ones(S), (H, A, S)),
        rng.dirichlet(np.ones(observations), (H, S)),
        rng.random((H, A, S)),
    )


def random_policy(seed: int, pomdp: Pomdp) -> Policy:
    H, A, _, _ = pomdp.transition.shape
    rng = np.random.default_rng(seed)
    return [rng.integers(A, size=(A * pomdp.emission.shape[-1]) ** h) for h in range(H)]


def all_policies(pomdp: Pomdp) -> Iterator[Policy]:
    """Deterministic ones of the whole history: A^(1 + A O + ...) of them."""
    H, A, _, _ = pomdp.transition.shape
    sizes = [(A * pomdp.emission.shape[-1]) ** h for h in range(H)]
    for choice in itertools.product(range(A), repeat=sum(sizes)):
        yield np.split(np.array(choice), np.cumsum(sizes)[:-1])


def returns(pomdp: Pomdp, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
    """Probability and sum of rewards of every trajectory (s_1, o_2, s_2, ..., o_{H+1}, s_{H+1})."""
    H, A, S, _ = pomdp.transition.shape
    kinds = pomdp.emission.shape[-1]
    probability, reward = [], []
    for states in itertools.product(range(S), repeat=H + 1):
        for observed in itertools.product(range(kinds), repeat=H):
            history, chance, total = 0, pomdp.initial[states[0]], 0.0
            for h in range(H):
                action = policy[h][history]
                total += pomdp.reward[h, action, states[h]]
                chance *= pomdp.transition[h, action, states[h], states[h + 1]]
                chance *= pomdp.emission[h, states[h + 1], observed[h]]
                history = (action * (A * kinds) ** h + history) * kinds + observed[h]
            probability.append(chance)
            reward.append(total)
    return np.array(probability), np.array(reward)


def risk_value_by_hand(pomdp: Pomdp, policy: Policy, gamma: float) -> float:
    probability, reward = returns(pomdp, policy)
    return float(np.log(probability @ np.exp(gamma * reward)) / gamma)

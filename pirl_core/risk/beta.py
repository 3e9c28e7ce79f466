"""The entropic risk measure J(π) = 1/γ ln E[exp(γ Σ_h r_h)] by beta vectors (arXiv 2402.18149, Eq. 1 and Sec. 7).

Axes: H steps, A actions, S states, O observations, F histories of a step, numbered as in `risk.model`.

All goes through one operator a step, M_h(a, s, o, s') = e^{γ r_h(s, a)} T_h(s' | s, a) O_{h+1}(o | s'): it carries the
risk belief σ forward (Eq. 9) and the beta vector β backward (Theorem 7.4), so ⟨σ_h, β_h⟩ summed over the histories that
a policy reaches is the same at every step (Eq. 10). The paper's σ_h is O^{h-1} times ours, since it measures
observations against uniform ones: a factor that all actions share, so no choice depends on it, and 1 where h = 1.
"""

from typing import NamedTuple

import numpy as np

from pirl_core.risk.model import Policy, Pomdp


class Plan(NamedTuple):
    """beta: of each step, H arrays (F, S). value: 1/γ ln ⟨μ, β_1⟩, which is J(π) where the bonus is 0."""

    policy: Policy
    beta: list[np.ndarray]
    value: float


def operator(pomdp: Pomdp, gamma: float) -> np.ndarray:
    """M: (H, A, S, O, S)."""
    weighted = np.exp(gamma * pomdp.reward)[..., None] * pomdp.transition
    M: np.ndarray = weighted[..., None, :] * pomdp.emission.swapaxes(1, 2)[:, None, None]
    return M


def beliefs(initial: np.ndarray, M: np.ndarray) -> list[np.ndarray]:
    """Risk beliefs σ_1 = μ, σ_{h+1}(s') = Σ_s M_h(a, s, o, s') σ_h(s) of every history (Eq. 9): H arrays (F, S)."""
    H, A, S, _, _ = M.shape
    found = [initial[None]]
    for h in range(H - 1):
        found.append((found[-1] @ M[h].reshape(A, S, -1)).reshape(-1, S))
    return found


def plan(initial: np.ndarray, M: np.ndarray, gamma: float, bonus: np.ndarray, bonus_in_q: bool = False) -> Plan:
    """Backward over all histories (Alg. 2, lines 15 to 27): β_{H+1} = 1, and for each action

        β̄_h(a) = M_h(a) β_{h+1} + sgn(γ) b_h(a), clipped to [e^{γ⁻ (H-h+1)}, e^{γ⁺ (H-h+1)}], γ⁻ = min(γ, 0) (Eq. 13).

    The action that is chosen maximises 1/γ ln ⟨σ_h, ·⟩ of M_h(a) β_{h+1}, as listed, or with ``bonus_in_q`` of β̄_h(a),
    the first one of equals; β_h is its β̄_h.

    initial: (S,). bonus: (H, A, S). With the true model and a bonus of 0 this is the exact planner.
    """
    H, A, S, outcomes, _ = M.shape
    sign = np.sign(gamma)
    sigma = beliefs(initial, M)
    after = np.ones((A * len(sigma[-1]) * outcomes, S))
    policy, beta = [], []
    for h in reversed(range(H)):
        F, left = len(sigma[h]), H - h
        # (A, F, O S) @ (A, O S, S)
        passed = after.reshape(A, F, -1) @ M[h].reshape(A, S, -1).swapaxes(1, 2)
        low, high = np.exp(min(gamma, 0) * left), np.exp(max(gamma, 0) * left)
        hopeful = (passed + sign * bonus[h][:, None]).clip(low, high)
        chosen = (sign * ((hopeful if bonus_in_q else passed) * sigma[h]).sum(-1)).argmax(0)
        after = hopeful[chosen, np.arange(F)]
        policy.append(chosen)
        beta.append(after)
    return Plan(policy[::-1], beta[::-1], float(np.log(initial @ after[0]) / gamma))


def optimum(pomdp: Pomdp, gamma: float) -> Plan:
    """π* and J(π*), exact: of all policies some deterministic one of the whole history is best (Corollary B.24)."""
    return plan(pomdp.initial, operator(pomdp, gamma), gamma, np.zeros_like(pomdp.reward))


def risk_value(initial: np.ndarray, M: np.ndarray, gamma: float, policy: Policy) -> float:
    """J(π) of a policy, exact: after the last step, the sum of the risk beliefs of all histories that it reaches."""
    _, A, S, outcomes, _ = M.shape
    sigma, history = initial[None], np.zeros(1, int)
    for h, actions in enumerate(policy):
        action = actions[history]
        sigma = (sigma[:, None] @ M[h].reshape(A, S, -1)[action]).reshape(-1, S)
        history = ((action * len(actions) + history)[:, None] * outcomes + np.arange(outcomes)).reshape(-1)
    return float(np.log(sigma.sum()) / gamma)

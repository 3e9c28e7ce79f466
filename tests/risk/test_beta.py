"""Beta vectors against enumeration, closed forms and the paper's own world."""

import numpy as np
import pytest

from pirl_core.params.preset import load_preset
from pirl_core.risk.beta import beliefs, operator, optimum, plan, risk_value
from pirl_core.risk.model import Pomdp, pomdp_of
from tests.risk.brute import all_policies, random_policy, random_pomdp, returns, risk_value_by_hand

WORLDS = {name: pomdp_of(world) for name, world in load_preset("risk").risk.experiments.items()}
OPTIMA: list[tuple[str, float, float]] = [
    ("pomdp", 1, 3.9051),
    ("pomdp", 3, 3.9536),
    ("pomdp", -1, 3.7292),
    ("pomdp", -3, 3.1736),
]
OPTIMA += [("mdp", gamma, 4.0) for gamma in (-5, -3, -1, 0.01, 1, 3, 5)]


@pytest.mark.parametrize(("world", "gamma", "value"), OPTIMA)
def test_the_optimum_of_the_papers_world(world: str, gamma: float, value: float) -> None:
    assert optimum(WORLDS[world], gamma).value == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("gamma", [2.0, -2.0])
@pytest.mark.parametrize("seed", range(3))
def test_no_policy_is_better_than_the_planners(seed: int, gamma: float) -> None:
    """Of all 128 deterministic ones at H = 2."""
    pomdp = random_pomdp(seed)
    found = optimum(pomdp, gamma)
    values = [risk_value_by_hand(pomdp, policy, gamma) for policy in all_policies(pomdp)]
    assert len(values) == 128
    assert found.value == pytest.approx(max(values), abs=1e-10)
    assert risk_value_by_hand(pomdp, found.policy, gamma) == pytest.approx(max(values), abs=1e-10)


@pytest.mark.parametrize("gamma", [2.0, -2.0])
def test_a_policys_value_is_that_of_its_trajectories(gamma: float) -> None:
    pomdp = random_pomdp(7, H=3, observations=2)
    M = operator(pomdp, gamma)
    for seed in range(3):
        policy = random_policy(seed, pomdp)
        expected = risk_value_by_hand(pomdp, policy, gamma)
        assert risk_value(pomdp.initial, M, gamma, policy) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("gamma", [3.0, -3.0])
def test_belief_times_conjugate_does_not_move(gamma: float) -> None:
    """⟨σ_h, ν_h⟩ along one history (Eq. 10); and σ_h stands where the history's number says."""
    pomdp = random_pomdp(3, H=4)
    M = operator(pomdp, gamma)
    actions, observed = [1, 0, 1, 1], [2, 0, 1, 2]
    steps = [M[h, a, :, o].T for h, (a, o) in enumerate(zip(actions, observed))]
    sigma, nu = [pomdp.initial], [np.ones(3)]
    for step in steps:
        sigma.append(step @ sigma[-1])
    for step in reversed(steps):
        nu.append(step.T @ nu[-1])
    products = [s @ n for s, n in zip(sigma, reversed(nu))]
    assert products == pytest.approx([products[0]] * 5, rel=1e-13)
    number = 0
    for h, found in enumerate(beliefs(pomdp.initial, M)):
        assert found[number] == pytest.approx(sigma[h], rel=1e-13)
        number = (actions[h] * len(found) + number) * 3 + observed[h]


def test_a_small_gamma_is_risk_neutral() -> None:
    """J is the mean return and γ / 2 its variance beyond that; the best policy is the best in the mean."""
    pomdp = random_pomdp(5)
    best = 0.0
    for policy in all_policies(pomdp):
        probability, reward = returns(pomdp, policy)
        mean = probability @ reward
        spread = probability @ (reward - mean) ** 2
        for gamma in (1e-4, -1e-4):
            value = risk_value(pomdp.initial, operator(pomdp, gamma), gamma, policy)
            assert value == pytest.approx(mean + gamma / 2 * spread, abs=1e-8)
        best = max(best, mean)
    assert optimum(pomdp, 1e-6).value == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("gamma", [2.0, -2.0])
def test_with_states_in_sight_it_is_value_iteration(gamma: float) -> None:
    """Of the risk-sensitive MDP: V_h(s) = max_a r + 1/γ ln Σ T e^{γ V_{h+1}}, on states alone."""
    seen = random_pomdp(11, H=4)
    seen = Pomdp(np.eye(3)[1], seen.transition, np.broadcast_to(np.eye(3), (4, 3, 3)), seen.reward)
    value = np.zeros(3)
    for h in reversed(range(4)):
        value = (seen.reward[h] + np.log(seen.transition[h] @ np.exp(gamma * value)) / gamma).max(0)
    assert optimum(seen, gamma).value == pytest.approx(value[1], abs=1e-12)


@pytest.mark.parametrize("in_q", [False, True])
@pytest.mark.parametrize("gamma", [1.5, -1.5])
def test_beta_stays_in_its_range_and_a_bonus_only_raises_the_value(gamma: float, in_q: bool) -> None:
    pomdp = random_pomdp(2, H=3)
    M = operator(pomdp, gamma)
    bonus = 5 * np.random.default_rng(0).random(pomdp.reward.shape)
    found = plan(pomdp.initial, M, gamma, bonus, in_q)
    for h, beta in enumerate(found.beta):
        low, high = np.sort([1.0, np.exp(gamma * (3 - h))])
        assert beta.shape == (6**h, 3) and low <= beta.min() and beta.max() <= high
    assert found.value >= optimum(pomdp, gamma).value


def test_only_with_the_bonus_in_q_is_the_plan_the_best_of_the_hopeful_model() -> None:
    """The gap of the proof (Eq. 65): V̂ of the listing's own policy may be below that of another, π* among them.

    Where nothing is clipped, V̂ of a policy is linear in the bonus, so a plan against all policies is fair.
    """
    gamma, gaps = 1.0, []
    for seed in range(4):
        pomdp = random_pomdp(seed)
        pomdp = pomdp._replace(reward=0.1 * pomdp.reward)
        M = operator(pomdp, gamma)
        bonus = 0.3 * np.random.default_rng(seed).random(pomdp.reward.shape)
        hopeful = [np.log(_with_bonus(pomdp, M, bonus, policy)) / gamma for policy in all_policies(pomdp)]
        assert plan(pomdp.initial, M, gamma, bonus, True).value == pytest.approx(max(hopeful), abs=1e-12)
        gaps.append(max(hopeful) - plan(pomdp.initial, M, gamma, bonus, False).value)
    assert min(gaps) >= -1e-12 and max(gaps) > 1e-3


def _with_bonus(pomdp: Pomdp, M: np.ndarray, bonus: np.ndarray, policy: list[np.ndarray]) -> float:
    """⟨μ, β_1⟩ of a policy at H = 2, step by step (Eq. 13)."""
    first = int(policy[0][0])
    total = 0.0
    for s in range(3):
        total += pomdp.initial[s] * bonus[0, first, s]
        for o in range(3):
            second = int(policy[1][first * 3 + o])
            for after in range(3):
                ahead = np.exp(pomdp.reward[1, second, after]) + bonus[1, second, after]
                total += pomdp.initial[s] * M[0, first, s, o, after] * ahead
    return total

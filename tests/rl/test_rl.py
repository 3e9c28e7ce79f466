"""RL: advantages against brute force, losses by hand, and every method on a bandit with a known optimum."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from pirl_core import seeds
from pirl_core.flow.chain import Noise
from pirl_core.flow.rules import flow_cps
from pirl_core.params.sections import Rl
from pirl_core.policy.context import Context
from pirl_core.policy.flow_policy import FlowPolicy, Process
from pirl_core.policy.lora import EncodingPolicy, add_adapters
from pirl_core.rl.advantages import gae, group_advantage
from pirl_core.rl.collect import advantages, collect
from pirl_core.rl.losses import explained_variance, policy_loss, value_loss
from pirl_core.rl.rollout import Step
from pirl_core.rl.train import iteration_episodes, noise_at, parameter_groups, process_of
from pirl_core.rl.update import losses_of, update
from pirl_core.training.learner import Learner
from pirl_core.types import Episode
from tests.worlds import SAC, Bandit, small_policy

BASE = {
    "algorithm": "ppo", "noise_rule": "flow_sde", "noise_level": 0.5, "noise_schedule": "constant",
    "noise_level_final": 0.5, "noise_min_std": 0.08, "noise_max_std": 0.3, "mdp": "hybrid", "hybrid_draw": "env",
    "logprob_reduction": "sum", "iterations": 12, "num_envs": 64, "env_groups": 1, "episodes_per_iteration": 192,
    "group_size": 1, "gamma": 0.99, "gae_lambda": 0.95, "bootstrap_at_time_limit": False, "normalize_advantages": True,
    "reward_scale": False, "chain_bound": None,
    "update_epochs": 4, "minibatch_size": 64, "micro_batch_size": None,
    "context_device_gib": 1.0, "context_host_gib": 1.0, "actor_lr": 2e-3, "critic_lr": 3e-3, "lr_schedule": "constant",
    "final_lr_fraction": 0.1, "weight_decay": 0.0, "clip_ratio": 0.2, "value_clip": None, "huber_delta": 10.0,
    "value_coef": 1.0, "entropy_coef": 0.0, "w2_coef": 0.0, "sft_coef": 0.0, "sft_batch_size": 16, "max_grad_norm": 1.0,
    "target_kl": None, "critic": "vlm",
    "critic_layers": 4, "critic_warmup_iterations": 0, "precision": "fp32",
    "activation_checkpointing": False, "compile": False, "dropout": False, "lora_rank": 0, "lora_alpha": 4,
    "lora_targets": ["q_proj", "v_proj"], "validate_every": 5,
    "validation_episodes_per_task": 4, "keep": "best", "watch": {}, "record": "none", "sac": SAC,
}  # fmt: skip


GRPO: dict[str, Any] = {"algorithm": "grpo", "normalize_advantages": False}


def rl_params(**changes) -> Rl:
    return Rl.model_validate(BASE | changes)


def brute_force_gae(reward, value, last, final_value, gamma, lam):
    """Eq. 13 as it is written: a sum of discounted TD errors up to the episode's end."""
    result = np.zeros(len(reward))
    for t in range(len(reward)):
        weight, s = 1.0, t
        while True:
            following = final_value[s] if last[s] else value[s + 1]
            result[t] += weight * (reward[s] + gamma * following - value[s])
            if last[s]:
                break
            weight, s = weight * gamma * lam, s + 1
    return result


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_gae_is_the_sum(data):
    lengths = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    n = sum(lengths)
    number = st.floats(-3, 3)
    reward, value, final = (data.draw(arrays(np.float64, n, elements=number)) for _ in range(3))
    last = np.zeros(n, bool)
    last[np.cumsum(lengths) - 1] = True
    gamma, lam = data.draw(st.floats(0, 1)), data.draw(st.floats(0, 1))
    expected = brute_force_gae(reward, value, last, final, gamma, lam)
    np.testing.assert_allclose(gae(reward, value, last, final, gamma, lam), expected, atol=1e-9)


def test_termination_and_time_limit_differ():
    """The same numbers, ended by success or by the clock: the clock bootstraps from the final observation."""
    reward, value, last = np.array([0.0, 1.0]), np.array([0.5, 0.6]), np.array([False, True])
    ended = gae(reward, value, last, np.array([0.0, 0.0]), 0.9, 1.0)
    limited = gae(reward, value, last, np.array([0.0, 2.0]), 0.9, 1.0)
    assert ended == pytest.approx([0.9 * 1.0 - 0.5, 1.0 - 0.6])
    assert limited == pytest.approx([0.9 * (1.0 + 0.9 * 2.0) - 0.5, 1.0 + 0.9 * 2.0 - 0.6])


def test_group_advantage():
    advantage = group_advantage(np.array([1.0, 0, 0, 1, 1, 1, 1, 1]), 4)
    assert advantage == pytest.approx([1, -1, -1, 1, 0, 0, 0, 0])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_group_advantages_do_not_depend_on_lengths_or_on_other_groups(data):
    """Episodes of any lengths: a decision's advantage is its episode's, by the group's returns alone."""
    size, groups = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 4))
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=size * groups, max_size=size * groups))
    success = np.array(data.draw(st.lists(st.booleans(), min_size=size * groups, max_size=size * groups)))
    steps = [
        Step(e, d, float(success[e] and d == length - 1), 5, bool(success[e]) and d == length - 1, False)
        for e, length in enumerate(lengths)
        for d in range(length)
    ]
    nothing = np.zeros(len(steps))
    rl = rl_params(**GRPO, group_size=size, episodes_per_iteration=size)
    found, target = advantages(steps, nothing, nothing, size * groups, rl)
    for step, advantage in zip(steps, found, strict=True):
        first = step.episode // size * size
        share = success[first : first + size].mean()
        spread = np.sqrt(share * (1 - share))
        assert advantage == pytest.approx((success[step.episode] - share) / spread if spread else 0.0)
    assert not target.any()


def test_policy_loss_by_hand():
    """Ratios e and 1/e with advantages +1 and −1: the first is clipped to 1.2, the second to 0.8."""
    log_prob = torch.tensor([[1.0], [-1.0], [1.0]])
    result = policy_loss(log_prob, torch.zeros(3, 1), torch.tensor([1.0, -1.0, -1.0]), 0.2)
    expected = -(1.2 - 0.8 - np.e) / 3
    assert result.loss.item() == pytest.approx(expected, rel=1e-6)
    assert result.clipfrac.item() == 1
    assert result.approx_kl.item() == pytest.approx(((np.e - 2) + (1 / np.e) + (np.e - 2)) / 3, rel=1e-5)


def test_value_loss_by_hand():
    value, old, target = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 3.0])
    assert value_loss(value, old, target, None, 10.0).item() == pytest.approx((0 + 4.5) / 2)
    # The first moved by 1 but is held to 0.2: (1 − 0.2)²/2. The second is beyond delta 1: 1 · (3 − 0.5).
    assert value_loss(value, old, target, 0.2, 1.0).item() == pytest.approx((0.32 + 2.5) / 2)


def test_explained_variance():
    target = np.array([0.0, 1.0, 2.0])
    assert explained_variance(target, target) == 1
    assert explained_variance(np.zeros(3), target) == 0
    assert explained_variance(target, np.ones(3)) == 0


def test_episodes_cover_tasks_and_groups():
    plain = iteration_episodes(["a", "b"], "none", rl_params(episodes_per_iteration=6), 0, 1)
    assert [e.task for e in plain] == ["a", "b"] * 3 and len({e.seed for e in plain}) == 6
    grouped = iteration_episodes(["a", "b"], "none", rl_params(**GRPO, episodes_per_iteration=6, group_size=3), 0, 1)
    assert [e.task for e in grouped] == ["a"] * 3 + ["b"] * 3 and len({e.seed for e in grouped}) == 2
    assert not {e.seed for e in plain} & {e.seed for e in iteration_episodes(["a"], "none", rl_params(), 0, 2)}


def test_noise_schedule_moves_the_right_number():
    learned = rl_params(noise_rule="learned", mdp="one_layer", noise_schedule="reinflow")
    assert noise_at(learned, 0).max_std == 0.3
    assert noise_at(learned, 11).max_std == pytest.approx(0.3 * 0.08 + 0.7 * 0.3)
    sde = rl_params(noise_schedule="linear", noise_level_final=0.1)
    assert noise_at(sde, 0).level == 0.5 and noise_at(sde, 11).level == pytest.approx(0.1)


@pytest.mark.parametrize("mdp", ["one_layer", "two_layer", "hybrid"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "reinflow"])
def test_cps_never_turns_the_noise_beyond_a_right_angle(mdp, schedule):
    """Parameters are refused exactly where some iteration would take from the noise, and in no other case."""
    tau = torch.arange(4) / 4
    for level, final in itertools.product((0.3, 1.0, 1.01, 2.0), repeat=2):
        chosen: dict[str, Any] = BASE | {"noise_rule": "flow_cps", "mdp": mdp, "noise_schedule": schedule}
        chosen |= {"noise_level": level, "noise_level_final": final}
        levels = [noise_at(Rl.model_construct(**chosen), iteration).level for iteration in range(12)]
        if all((flow_cps.weights(tau, 0.25, each).noise >= 0).all() for each in levels):
            Rl.model_validate(chosen)
        else:
            with pytest.raises(ValidationError, match=r"noise_level(_final)? \S+: flow_cps .* cos\(πa/2\) < 0"):
                Rl.model_validate(chosen)


METHODS: dict[str, dict[str, Any]] = {
    "flow_sde": {},
    "flow_sde_expert_critic": {"critic": "expert", "critic_layers": 1},
    "flow_noise": {"noise_rule": "learned", "mdp": "one_layer", "entropy_coef": 0.005},
    "two_layer": {"mdp": "two_layer"},
    "flow_cps": {"noise_rule": "flow_cps"},
    "constant_sde": {"noise_rule": "constant_sde", "noise_level": 0.5},
    "grpo": {**GRPO, "group_size": 8},
    "official_mean": {"noise_rule": "learned", "mdp": "one_layer", "logprob_reduction": "official"},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_climbs_the_bandit(method):
    """Reward 1 at the target, known in closed form. The first ratio of every iteration is 1 to 1e-6 of the
    log-probability's size, which is what float32 holds of it."""
    torch.set_num_threads(1)
    rl = rl_params(**METHODS[method])
    policy = small_policy(cameras=0, horizon=2, replan=2)
    process: Process = process_of(rl)
    policy.backbone.freeze_vlm()
    policy.add_heads(process, rl.critic_layers, rl.noise_rule == "learned")
    learner = Learner(policy, parameter_groups(policy, rl), rl.weight_decay, rl.max_grad_norm, rl.precision, 0)
    bandit = Bandit(4, target=0.8)
    rewards = []
    for iteration in range(rl.iterations):
        noise: Noise = noise_at(rl, iteration)
        episodes = [
            Episode("bandit", seeds.train_seed(0, "bandit", iteration * rl.episodes_per_iteration + i))
            for i in range(rl.episodes_per_iteration)
        ]
        rollout, share, _ = collect(policy, bandit, episodes, noise, process, rl, (0, iteration))
        everything = next(iter(rollout.contexts.batches([np.arange(len(rollout.samples.states))])))
        assert isinstance(everything, Context)
        chunk = policy.executed(rollout.samples.states, everything)
        rewards.append(float(1 - (chunk - 0.8).square().mean()))
        metrics = update(
            learner, rollout, share, noise, process, rl, np.random.default_rng(iteration), False, iteration
        )
        assert metrics["losses/first_ratio_error"] < 1e-6 * max(1.0, rollout.samples.log_prob.abs().max().item())
    assert rewards[-1] > rewards[0] + 0.5 * (1 - rewards[0]), rewards


WARM: dict[str, dict[str, Any]] = {
    "critic on the VLM": {},
    "critic on the expert": {"critic": "expert"},
    "learned noise": {"noise_rule": "learned", "mdp": "one_layer", "entropy_coef": 0.01},
    "adapters, which the critic's loss reaches": {"lora_rank": 2},
    "parts": {"micro_batch_size": 7},
}


def learning(rl: Rl, weights: dict[str, torch.Tensor] | None = None) -> tuple[FlowPolicy, Learner]:
    """A policy as RL has it, with these weights or random ones, and its learner."""
    policy = small_policy(cameras=0, horizon=2, replan=2)
    policy.backbone.freeze_vlm()
    policy.add_heads(process_of(rl), rl.critic_layers, rl.noise_rule == "learned")
    if rl.lora_rank:
        add_adapters(policy.backbone, rl.lora_rank, rl.lora_alpha, rl.lora_targets)
    policy.load_state_dict(weights or policy.state_dict())
    module = EncodingPolicy(policy) if rl.lora_rank else policy
    groups = parameter_groups(policy, rl)
    return policy, Learner(module, groups, rl.weight_decay, rl.max_grad_norm, "fp32", 0, unused=rl.lora_rank > 0)


def tensors(policy: FlowPolicy) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in policy.state_dict().items()}


def learn(policy: FlowPolicy, learner: Learner, rl: Rl, warming: bool) -> dict[str, float]:
    noise, process, episodes = noise_at(rl, 0), process_of(rl), [Episode("bandit", i) for i in range(64)]
    rollout, share, _ = collect(policy, Bandit(4, 0.8), episodes, noise, process, rl, (0,))
    return update(learner, rollout, share, noise, process, rl, np.random.default_rng(0), warming, 0)


@pytest.mark.parametrize("kind", WARM)
def test_warm_up_moves_the_critic_alone(kind):
    """Nor does it leave a trace in the optimiser: the first step after it is the first step of a fresh AdamW."""
    torch.set_num_threads(1)
    rl = rl_params(weight_decay=0.1, update_epochs=2, minibatch_size=32, **WARM[kind])
    policy, learner = learning(rl)
    assert policy.critic is not None
    critic = set(map(id, policy.critic.parameters()))
    before, clip = tensors(policy), learner.accelerator.clip_grad_norm_
    clipped: set[int] = set()

    def watch(parameters, norm):
        parameters = list(parameters)
        clipped.update(id(parameter) for parameter in parameters if parameter.grad is not None)
        return clip(parameters, norm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner.accelerator, "clip_grad_norm_", watch)
        learn(policy, learner, rl, warming=True)
    warmed = tensors(policy)
    assert {name.split(".")[0] for name, value in warmed.items() if not torch.equal(value, before[name])} == {"critic"}
    assert set(map(id, learner.optimizer.state)) == clipped == critic
    # One update more, and the same one by a learner that knows no warm-up.
    once = rl.model_copy(update={"update_epochs": 1, "minibatch_size": 64})
    fresh, other = learning(rl, warmed)
    learn(policy, learner, once, warming=False)
    learn(fresh, other, once, warming=False)
    after = tensors(fresh)
    of_actor = [name for name, value in warmed.items() if not name.startswith("critic.")]
    assert sum(not torch.equal(after[name], warmed[name]) for name in of_actor) > 10
    assert all(torch.equal(value, after[name]) for name, value in tensors(policy).items() if name in of_actor)


def test_where_every_group_fares_alike_nothing_moves():
    """Neither by weight decay nor by the moments that earlier updates left."""
    rl = rl_params(**GRPO, group_size=8, weight_decay=0.1)
    policy, learner = learning(rl)
    learn(policy, learner, rl, warming=False)
    before = tensors(policy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pirl_core.rl.collect.group_advantage", lambda returns, _: returns * 0)
        metrics = learn(policy, learner, rl, warming=False)
    assert metrics["charts/updates"] == 0 and metrics["charts/grad_norm"] == 0
    assert all(torch.equal(value, before[name]) for name, value in tensors(policy).items())


def test_kl_stop():
    rl = rl_params(target_kl=1e-9, update_epochs=50)
    policy = small_policy(cameras=0, horizon=2, replan=2)
    process = process_of(rl)
    policy.backbone.freeze_vlm()
    policy.add_heads(process, 4, False)
    learner = Learner(policy, parameter_groups(policy, rl), 0.0, 1.0, "fp32", 0)
    rollout, share, _ = collect(
        policy, Bandit(4, 0.8), [Episode("b", i) for i in range(64)], noise_at(rl, 0), process, rl, (0,)
    )
    metrics = update(learner, rollout, share, noise_at(rl, 0), process, rl, np.random.default_rng(0), False, 0)
    assert metrics["charts/updates"] < 5
    assert metrics["charts/epochs"] == metrics["charts/updates"] / -(-64 // rl.minibatch_size)
    free = rl.model_copy(update={"target_kl": None, "update_epochs": 2})
    metrics = update(learner, rollout, share, noise_at(rl, 0), process, free, np.random.default_rng(0), False, 0)
    assert metrics["charts/epochs"] == 2


@pytest.mark.parametrize("critic", ["vlm", "expert"])
def test_bf16_keeps_probabilities_values_and_losses_in_fp32(critic, monkeypatch):
    """The network runs in bf16 over fp32 masters; what is compared or summed after it does not."""
    AcceleratorState._reset_state(reset_partial_state=True)  # one process has one precision; the tests need two
    rl = rl_params(precision="bf16", critic=critic, update_epochs=1, minibatch_size=8)
    policy = small_policy(cameras=0, horizon=2, replan=2)
    process = process_of(rl)
    policy.backbone.freeze_vlm()
    policy.add_heads(process, 4, False)
    learner = Learner(policy, parameter_groups(policy, rl), 0.0, 1.0, "bf16", 0)
    seen = []
    projection = policy.backbone.get_submodule("pi0.action_out_proj")
    projection.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    assert policy.critic is not None
    policy.critic.register_forward_hook(lambda *args: seen.append(("critic", args[2].dtype)))
    losses = []

    def spied(*arguments):
        losses.append(losses_of(*arguments))
        return losses[-1]

    monkeypatch.setattr("pirl_core.rl.update.losses_of", spied)
    with learner.accelerator.autocast():
        rollout, share, _ = collect(
            policy, Bandit(4, 0.8), [Episode("b", i) for i in range(8)], noise_at(rl, 0), process, rl, (0,)
        )
    samples = rollout.samples
    metrics = update(learner, rollout, share, noise_at(rl, 0), process, rl, np.random.default_rng(0), False, 0)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert set(seen) == {torch.bfloat16, ("critic", torch.float32)}
    assert {part.dtype for part in (samples.states, samples.log_prob, samples.value)} == {torch.float32}
    assert {part.dtype for row in losses for part in row.values()} == {torch.float32}
    # Log-probabilities that had passed through bf16 would be multiples of 2^-8 of their size.
    for part in (samples.log_prob, samples.value):
        assert not torch.equal(part, part.bfloat16().float())
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert metrics["losses/first_ratio_error"] < 0.05

"""The RL loop: roll out, estimate advantages, update the expert, validate (π_RL Sec. 4).

The VLM is frozen: its context is computed once an observation, at rollout, and reused by every denoising step and
every update epoch.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pirl_core import seeds
from pirl_core.flow.chain import Noise
from pirl_core.flow.noise import scheduled
from pirl_core.learner import Learner, cosine_factor
from pirl_core.params import Rl
from pirl_core.policy.flow_policy import FlowPolicy, Process
from pirl_core.policy.pi0 import Context
from pirl_core.rl.collect import Rollout, collect
from pirl_core.rl.losses import explained_variance, policy_loss, value_loss
from pirl_core.rl.rollout import ChunkEnv
from pirl_core.track import Tracker
from pirl_core.types import Episode

Validate = Callable[[], float]
"""Deterministic success rate on the validation seeds."""
OnImproved = Callable[[], None]
"""Called when the validation success is the best so far."""


def process_of(rl: Rl) -> Process:
    return Process(rl.mdp, rl.hybrid_draw, rl.logprob_reduction, rl.critic if rl.algorithm == "ppo" else None)


def noise_at(rl: Rl, iteration: int) -> Noise:
    """Noise rule and its strength at this iteration; the schedule moves the level, or the learned upper bound."""
    progress = iteration / max(1, rl.iterations - 1)
    if rl.noise_rule == "learned":
        final = 0.3 * rl.noise_min_std + 0.7 * rl.noise_max_std
        bound = scheduled(rl.noise_schedule, rl.noise_max_std, final, progress)
        return Noise("learned", 0.0, rl.noise_min_std, bound)
    level = scheduled(rl.noise_schedule, rl.noise_level, rl.noise_level_final, progress)
    return Noise(rl.noise_rule, level, 0.0, 0.0)


def iteration_episodes(tasks: list[str], rl: Rl, seed: int, iteration: int) -> list[Episode]:
    """Tasks in turn; GRPO repeats each start ``group_size`` times."""
    starts = rl.episodes_per_iteration // rl.group_size
    unique = [Episode(tasks[i % len(tasks)], seeds.train_seed(seed, iteration, i)) for i in range(starts)]
    return [episode for episode in unique for _ in range(rl.group_size)]


def parameter_groups(policy: FlowPolicy, rl: Rl) -> list[dict[str, Any]]:
    """Actor (expert and noise net) and critic, each with its learning rate; the frozen VLM is left out."""
    critic = list(policy.critic.parameters()) if policy.critic is not None else []
    of_critic = set(map(id, critic))
    actor = [p for p in policy.parameters() if p.requires_grad and id(p) not in of_critic]
    groups = [{"params": actor, "lr": rl.actor_lr}]
    return [*groups, {"params": critic, "lr": rl.critic_lr}] if critic else groups


def train_rl(
    policy: FlowPolicy,
    envs: ChunkEnv,
    tasks: list[str],
    rl: Rl,
    seed: int,
    tracker: Tracker,
    validate: Validate,
    on_improved: OnImproved,
) -> None:
    """Fine-tune ``policy`` in place. All randomness is a function of (seed, iteration)."""
    torch.manual_seed(seed)
    process = process_of(rl)
    policy.backbone.freeze_vlm()
    policy.add_heads(process, rl.critic_layers, rl.noise_rule == "learned")
    # No dropout anywhere in RL (Eq. 17, 18): the ratio must be 1 at identical parameters.
    policy.eval()
    learner = Learner(policy, parameter_groups(policy, rl), rl.weight_decay, rl.max_grad_norm, rl.precision)
    best = validate()
    tracker.log(0, {"validation/success": best}, ("validation/success",))
    on_improved()
    for iteration in range(rl.iterations):
        started = time.monotonic()
        noise = noise_at(rl, iteration)
        episodes = iteration_episodes(tasks, rl, seed, iteration)
        with learner.accelerator.autocast():
            rollout, metrics = collect(policy, envs, episodes, noise, process, rl, (seed, 2, iteration))
        collected = time.monotonic()
        rng = np.random.default_rng([seed, 3, iteration])
        warming = iteration < rl.critic_warmup_iterations and process.critic is not None
        metrics |= update(learner, rollout, noise, process, rl, rng, warming, iteration)
        updated = time.monotonic()
        metrics |= {
            "charts/SPS": metrics["charts/simulator_steps"] / (updated - started),
            "time/rollout_seconds": collected - started,
            "time/update_seconds": updated - collected,
        }
        if (iteration + 1) % rl.validate_every == 0 or iteration + 1 == rl.iterations:
            metrics["validation/success"] = validate()
            if metrics["validation/success"] >= best:
                best = metrics["validation/success"]
                on_improved()
        shown = ("charts/success", "validation/success", "losses/approx_kl", "losses/clipfrac")
        tracker.log(iteration + 1, metrics, shown)


def update(
    learner: Learner,
    rollout: Rollout,
    noise: Noise,
    process: Process,
    rl: Rl,
    rng: np.random.Generator,
    warming: bool,
    iteration: int,
) -> dict[str, float]:
    """``update_epochs`` passes over the rollout in fresh permutations; stops early once a minibatch exceeds target_kl.

    ``warming``: only the critic learns. Returns the means of the losses over the minibatches.
    """
    count = len(rollout.advantage)
    advantage = rollout.advantage
    if rl.normalize_advantages:
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    rollout = rollout._replace(advantage=advantage)
    factor = 1.0
    if rl.lr_schedule == "cosine":
        factor = cosine_factor(iteration, rl.iterations, 0, rl.final_lr_fraction)
    rows: list[dict[str, float]] = []
    first_error = 0.0
    stopped = False
    for _ in range(rl.update_epochs):
        order = torch.from_numpy(rng.permutation(count)).to(advantage.device)
        for rows_of_batch in order.tensor_split(-(-count // rl.minibatch_size)):
            batch = take(rollout, rows_of_batch)
            with learner.accelerator.autocast():
                result = learner.module(batch.context, batch.states, batch.stochastic, noise, process)
            loss = policy_loss(result.log_prob, batch.log_prob, batch.advantage, rl.clip_ratio)
            if not rows:
                first_error = float((result.log_prob - batch.log_prob).detach().exp().sub(1).abs().max())
            if rl.target_kl is not None and loss.approx_kl > rl.target_kl and not warming:
                stopped = True
                break
            entropy = result.entropy.mean()
            total = 0.0 if warming else 1.0
            objective = total * (loss.loss - rl.entropy_coef * entropy)
            critic_loss = objective.new_zeros(())
            if process.critic is not None:
                critic_loss = value_loss(result.value, batch.value, batch.target, rl.value_clip, rl.huber_delta)
                objective = objective + rl.value_coef * critic_loss
            norm = learner.step(objective, factor)
            rows.append(
                {
                    "losses/policy_loss": loss.loss.item(),
                    "losses/value_loss": critic_loss.item(),
                    "losses/entropy": entropy.item(),
                    "losses/approx_kl": loss.approx_kl.item(),
                    "losses/clipfrac": loss.clipfrac.item(),
                    "charts/grad_norm": norm,
                }
            )
        if stopped:
            break
    metrics = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} if rows else {}
    return metrics | {
        "losses/first_ratio_error": first_error,
        "losses/explained_variance": explained_variance(rollout.value, rollout.target),
        "charts/updates": float(len(rows)),
        "charts/learning_rate": rl.actor_lr * factor,
    }


def take(rollout: Rollout, rows: torch.Tensor) -> Rollout:
    """The given decisions of a rollout."""
    context = Context(*(part[rows] for part in rollout.context))
    return Rollout(context, *(part[rows] for part in rollout[1:]))

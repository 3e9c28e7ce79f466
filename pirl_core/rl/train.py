"""The RL loop: roll out, estimate advantages, update the expert, validate (π_RL Sec. 4).

The VLM is frozen: its context is computed once an observation, at rollout, and reused by every denoising step and
every update epoch. With ``rl.lora_rank`` it learns through adapters, and every minibatch encodes anew.
"""

import math
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch

from pirl_core import seeds
from pirl_core.errors import UserError
from pirl_core.facts import Score
from pirl_core.flow.chain import Noise
from pirl_core.flow.noise import learns_std, scheduled
from pirl_core.params.sections import Rl
from pirl_core.policy.anchored import AnchoredPolicy
from pirl_core.policy.dropout import drop, expert_dropout, still
from pirl_core.policy.flow_policy import FlowPolicy, Process
from pirl_core.policy.layers import way_to_run
from pirl_core.policy.lora import EncodingPolicy, add_adapters, merge, merged, save_adapters
from pirl_core.policy.precision import round_weights
from pirl_core.rl import guards
from pirl_core.rl.advantages import RewardScale
from pirl_core.rl.anchor import Anchor
from pirl_core.rl.collect import collect
from pirl_core.rl.rollout import ChunkEnv
from pirl_core.rl.update import update
from pirl_core.training.learner import Learner, compute_device
from pirl_core.training.ranks import require_share
from pirl_core.training.session import Session
from pirl_core.types import Episode

Validate = Callable[[int], dict[str, float]]
"""Iterations done → scores of the deterministic policy on validation seeds: that which ``chooses``, and others to look
at."""
OnImproved = Callable[[], None]
"""Called when the validation score is the best so far."""
OnRollout = Callable[[int], None]
"""Called on all ranks when an iteration's episodes have been played."""


def chooses(score: Score) -> str:
    """The metric by which the best policy is kept."""
    return f"validation/{score}"


def process_of(rl: Rl) -> Process:
    return Process(rl.mdp, rl.hybrid_draw, rl.logprob_reduction, rl.critic if rl.algorithm == "ppo" else None)


def noise_at(rl: Rl, iteration: int) -> Noise:
    """Noise rule and its strength at this iteration; the schedule moves the level, or the learned upper bound."""
    progress = iteration / max(1, rl.iterations - 1)
    if learns_std(rl.noise_rule):
        final = 0.3 * rl.noise_min_std + 0.7 * rl.noise_max_std
        bound = scheduled(rl.noise_schedule, rl.noise_max_std, final, progress)
        return Noise(rl.noise_rule, 0.0, rl.noise_min_std, bound, rl.chain_bound)
    level = scheduled(rl.noise_schedule, rl.noise_level, rl.noise_level_final, progress)
    return Noise(rl.noise_rule, level, 0.0, 0.0, rl.chain_bound)


def iteration_episodes(tasks: list[str], shift: str, rl: Rl, seed: int, iteration: int) -> list[Episode]:
    """Tasks in turn, on from where the iteration before ended: over a run no task gets more than one start more than
    another. GRPO repeats each start ``group_size`` times."""
    starts = rl.episodes_per_iteration // rl.group_size
    unique = [
        training_episode(tasks, shift, seed, index) for index in range(iteration * starts, (iteration + 1) * starts)
    ]
    return [episode for episode in unique for _ in range(rl.group_size)]


def training_episode(tasks: list[str], shift: str, seed: int, index: int) -> Episode:
    """Start ``index`` of a run."""
    number, which = divmod(index, len(tasks))
    return Episode(tasks[which], seeds.train_seed(seed, tasks[which], number), shift, number)


def parameter_groups(policy: FlowPolicy, rl: Rl) -> list[dict[str, Any]]:
    """Actor (expert, noise net, adapters) and critic, each with its learning rate; the frozen VLM is left out."""
    critic = list(policy.critic.parameters()) if policy.critic is not None else []
    of_critic = set(map(id, critic))
    actor = [p for p in policy.parameters() if p.requires_grad and id(p) not in of_critic]
    groups = [{"name": "actor", "params": actor, "lr": rl.actor_lr}]
    return [*groups, {"name": "critic", "params": critic, "lr": rl.critic_lr}] if critic else groups


def train_rl(
    policy: FlowPolicy,
    envs: ChunkEnv,
    tasks: list[str],
    shift: str,
    rl: Rl,
    seed: int,
    session: Session,
    validate: Validate,
    on_improved: OnImproved,
    on_rollout: OnRollout = lambda iteration: None,
    anchor: Anchor | None = None,
    score: Score = "success",
) -> None:
    """Fine-tune ``policy`` in place on ``tasks``, started by ``shift``. Randomness is a function of (seed, iteration).
    ``anchor``: demonstrations that it goes on learning from. score: what episodes count for.

    Raises UserError when a guard of ``run`` in params.yaml says stop; the last checkpoint stays.
    """
    require_share("rl.episodes_per_iteration", rl.episodes_per_iteration)
    torch.manual_seed(seeds.integer("heads", seed))
    process = process_of(rl)
    policy.backbone.freeze_vlm()
    policy.add_heads(process, rl.critic_layers, learns_std(rl.noise_rule))
    if rl.w2_coef:
        policy.reference = deepcopy(policy.backbone).requires_grad_(False)
    if rl.lora_rank:
        add_adapters(policy.backbone, rl.lora_rank, rl.lora_alpha, rl.lora_targets)
    round_weights(policy, rl.precision)
    # Without dropout the ratio is 1 at identical parameters (Eq. 17); kept, it compares two masks too (Eq. 18).
    policy.eval()
    dropout = expert_dropout(policy.backbone) if rl.dropout else []
    drop(dropout, True)
    policy.backbone.run_layer = way_to_run(rl.activation_checkpointing, rl.compile, compute_device())
    tracker = session.tracker
    module = EncodingPolicy(policy) if rl.lora_rank else policy
    learner = Learner(
        AnchoredPolicy(module) if anchor else module,
        parameter_groups(policy, rl),
        rl.weight_decay,
        rl.max_grad_norm,
        rl.precision,
        session.supervision.max_skipped_updates,
        unused=rl.lora_rank > 0,  # what follows the VLM's last keys and values may be read by nothing
    )

    def validated(iteration: int) -> dict[str, float]:
        """Of what evaluation will read: with the adapters merged, and nothing dropped."""
        with merged(policy), still(dropout):
            return validate(iteration)

    def improved() -> None:
        """The folder that evaluation reads has merged weights; the adapters lie beside them."""
        with merged(policy):
            on_improved()
        if rl.lora_rank and session.ranks.main:
            save_adapters(policy.backbone, session.policy)

    choosing = chooses(score)
    numbers = session.restore(learner)
    if numbers is None:
        first = validated(0)
        numbers = {"iteration": 0, "best": first[choosing]}
        tracker.log(0, first, (choosing,))
        improved()
        session.save_if_due(0, learner, numbers)
    best = numbers["best"]
    scale = RewardScale(rl.gamma, numbers) if rl.reward_scale else None
    for iteration in range(numbers["iteration"], rl.iterations):
        started = time.monotonic()
        noise = noise_at(rl, iteration)
        # The masks come from the library's own generator, so each rank's are a function of this alone.
        torch.manual_seed(seeds.integer("rl_dropout", seed, iteration, session.ranks.rank))
        episodes = iteration_episodes(tasks, shift, rl, seed, iteration)
        rollout, share, metrics = collect(policy, envs, episodes, noise, process, rl, (seed, iteration), scale)
        on_rollout(iteration)
        collected = time.monotonic()
        rng = seeds.generator("minibatch", seed, iteration)
        warming = iteration < rl.critic_warmup_iterations and process.critic is not None
        learner.release()
        metrics |= update(learner, rollout, share, noise, process, rl, rng, warming, iteration, anchor)
        learner.gather()
        updated = time.monotonic()
        timing = {
            "charts/SPS": metrics["charts/simulator_steps"] / (updated - started),
            "time/rollout_seconds": collected - started,
            "time/update_seconds": updated - collected,
        }
        if (iteration + 1) % rl.validate_every == 0 or iteration + 1 == rl.iterations:
            metrics |= validated(iteration + 1)
            timing["time/validation_seconds"] = time.monotonic() - updated
        ends_are_no_success(metrics, score)
        training = "charts/success" if score == "success" else "charts/episodic_return"
        shown = (training, choosing, "losses/approx_kl", "losses/clipfrac")
        tracker.log(iteration + 1, metrics, shown, timing)
        heed(metrics, best, iteration + 1, session)
        if metrics.get(choosing, -math.inf) >= best:
            best = metrics[choosing]
            improved()
        numbers = {"iteration": iteration + 1, "best": best, **(scale.numbers if scale else {})}
        session.save_if_due(iteration + 1, learner, numbers)
    if rl.lora_rank and rl.keep == "last" and session.ranks.main:
        save_adapters(policy.backbone, session.policy)
    merge(policy)
    policy.eval()


def ends_are_no_success(metrics: dict[str, float], score: Score) -> None:
    """Where returns count, what ``statistics`` calls success is the share of episodes that ended before their limit."""
    if score == "return":
        metrics["charts/terminated"] = metrics.pop("charts/success")


def heed(metrics: dict[str, float], best: float, iteration: int, session: Session) -> None:
    """Warns of signs of trouble; raises UserError where a guard says stop. best: validation score before this one."""
    for text in guards.warnings(metrics, best, session.supervision):
        session.tracker.warn(iteration, text)
    trouble = guards.divergence(metrics, best, session.supervision)
    if trouble:
        raise UserError(
            f"stopped at iteration {iteration}: {trouble}; the last checkpoint before it is kept. Lower "
            "rl.actor_lr or rl.noise_level, or raise the limit to go on"
        )

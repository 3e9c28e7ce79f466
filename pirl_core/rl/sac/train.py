"""SAC Flow's loop: play, remember, learn from what is remembered, validate (arXiv 2509.25756).

Axes: B rows, K denoising steps, H horizon, D action numbers of the network, S state numbers.
"""

import math
import time
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pirl_core import seeds
from pirl_core.errors import UserError
from pirl_core.facts import Score
from pirl_core.flow.chain import Noise
from pirl_core.flow.noise import learns_std
from pirl_core.params.sections import Rl
from pirl_core.policy.flow_policy import FlowPolicy, Process, keyed_normals
from pirl_core.rl.collect import statistics
from pirl_core.rl.rollout import ChunkEnv, Step
from pirl_core.rl.sac.model import Batch, SacFlow
from pirl_core.rl.sac.play import play
from pirl_core.rl.sac.replay import Replay
from pirl_core.rl.train import (
    OnImproved,
    Validate,
    chooses,
    ends_are_no_success,
    heed,
    noise_at,
    training_episode,
)
from pirl_core.training.learner import Learner
from pirl_core.training.session import Session
from pirl_core.types import Observation

COUNTS = ("episodes", "decisions", "updates", "steps", "skipped_critic", "skipped_actor")
"""What a run counts from its start on; the last two, of updates in a row."""
SKIPPED = "charts/skipped_updates"
PROCESS = Process("one_layer", "env", "sum", None)


def train_sac(
    policy: FlowPolicy,
    envs: ChunkEnv,
    tasks: list[str],
    shift: str,
    rl: Rl,
    seed: int,
    session: Session,
    validate: Validate,
    on_improved: OnImproved,
    score: Score,
) -> tuple[SacFlow, Replay]:
    """Fine-tune ``policy`` in place; gives what was trained, and what is remembered. Randomness is a function of
    (seed, iteration, episode, decision), and of (seed, update). Raises UserError for a policy that sees more than
    numbers, and where several processes are at work."""
    _require(policy, session)
    torch.manual_seed(seeds.integer("sac_heads", seed))
    policy.add_heads(PROCESS, rl.critic_layers, learns_std(rl.noise_rule))
    model = SacFlow(policy, rl.sac)
    actor = [p for p in policy.parameters() if p.requires_grad]
    groups = [
        {"name": "actor", "params": actor, "lr": rl.actor_lr},
        {"name": "critic", "params": list(model.critics.parameters()), "lr": rl.critic_lr},
        {"name": "temperature", "params": [model.log_temperature], "lr": rl.sac.temperature_lr},
    ]
    learner = Learner(
        model, groups, rl.weight_decay, rl.max_grad_norm, "fp32", session.supervision.max_skipped_updates, unused=True
    )
    replay = Replay(rl.sac.replay_size, len(policy.state_center), (policy.replan, len(policy.action_center)))
    tracker = session.tracker

    def extra() -> dict[str, Tensor]:
        kept = {f"replay.{name}": torch.from_numpy(rows) for name, rows in replay.state().items()}
        return kept | {f"model.{name}": value for name, value in model.untrained().items()}

    numbers = session.restore(learner)
    if numbers is None:
        first = validate(0)
        numbers = {"iteration": 0, "best": first[chooses(score)], **dict.fromkeys(COUNTS, 0)}
        tracker.log(0, first, (chooses(score),))
        on_improved()
        session.save_if_due(0, learner, numbers, extra)
    else:
        kept = session.extra()
        replay.restore({name: kept[f"replay.{name}"].numpy() for name in replay.state()})
        model.restore({name: kept[f"model.{name}"] for name in model.untrained()})
    for iteration in range(numbers["iteration"], rl.iterations):
        started = time.monotonic()
        noise = noise_at(rl, iteration)
        metrics = _iteration(model, learner, envs, replay, noise, rl, seed, iteration, numbers, tasks, shift)
        ends_are_no_success(metrics, score)
        spent = time.monotonic() - started
        timing = {"charts/SPS": metrics["charts/simulator_steps"] / spent, "time/iteration_seconds": spent}
        if (iteration + 1) % rl.validate_every == 0 or iteration + 1 == rl.iterations:
            metrics |= validate(iteration + 1)
        shown = ("charts/episodic_return", chooses(score), "losses/temperature")
        tracker.log(iteration + 1, metrics, shown, timing)
        heed(metrics, numbers["best"], iteration + 1, session)
        if metrics.get(chooses(score), -float("inf")) >= numbers["best"]:
            numbers["best"] = metrics[chooses(score)]
            on_improved()
        numbers["iteration"] = iteration + 1
        session.save_if_due(iteration + 1, learner, numbers, extra)
    policy.eval()
    return model, replay


def _require(policy: FlowPolicy, session: Session) -> None:
    if policy.backbone.vlm_modules or policy.backbone.shape.cameras:
        raise UserError(
            f"rl.algorithm = sac: {policy.backbone.shape.family} sees pictures and words, of which no buffer is kept; "
            "set policy.backbone: flow_g, flow_t or mlp"
        )
    if not policy.normalization.squash:
        raise UserError("rl.algorithm = sac: its actions end in a tanh; set policy.squash: true and rerun stage sft")
    if session.ranks.size > 1:
        raise UserError(f"rl.algorithm = sac runs in one process, not in {session.ranks.size}; set PIRL_PROCESSES=1")


def _iteration(
    model: SacFlow,
    learner: Learner,
    envs: ChunkEnv,
    replay: Replay,
    noise: Noise,
    rl: Rl,
    seed: int,
    iteration: int,
    numbers: dict[str, float],
    tasks: list[str],
    shift: str,
) -> dict[str, float]:
    """Plays, and learns after each decision; moves the counts of ``numbers``."""
    policy = model.policy
    shape = (policy.denoise_steps + 1, *policy.chunk_shape)

    def read(observation: Observation) -> np.ndarray:
        return policy.inputs(observation).state[:, : len(policy.state_center)].cpu().numpy()

    def decide(state: np.ndarray, number: np.ndarray, decision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keys = [(seed, iteration, int(e), int(d)) for e, d in zip(number, decision, strict=True)]
        with torch.no_grad():
            if numbers["decisions"] < rl.sac.random_decisions:
                # The normal distribution's own function makes them uniform in (−1, 1).
                normals = keyed_normals("sac_random", keys, (policy.replan, len(policy.action_center)))
                squashed = torch.erf(normals.to(policy.device) / math.sqrt(2))
            else:
                normals = keyed_normals("sac_play", keys, shape).to(policy.device)
                squashed = model.act(torch.from_numpy(state).to(policy.device), normals, noise)[0]
            actions = squashed * policy.action_scale + policy.action_center
        return actions.cpu().numpy(), squashed.cpu().numpy()

    warming = iteration < rl.critic_warmup_iterations
    rows: list[dict[str, float]] = []
    steps: list[Step] = []
    first = int(numbers["episodes"])
    episode_of = partial(training_episode, tasks, shift, seed)
    # What the last iteration made too many, since its episodes were played to their ends, this one makes fewer.
    wanted = (iteration + 1) * rl.sac.decisions_per_iteration - int(numbers["decisions"])
    for played in play(envs, episode_of, first, wanted, read, decide):
        replay.add(played.rows)
        numbers["decisions"] += len(played.steps)
        steps += [step._replace(episode=step.episode - first) for step in played.steps]
        if len(replay) >= rl.sac.learning_starts:
            for _ in range(len(played.steps) * rl.sac.updates_per_decision):
                rows.append(_update(model, learner, replay, noise, rl, seed, numbers, warming))
                numbers["updates"] += 1
    count = 1 + max(step.episode for step in steps)
    numbers["episodes"] = first + count
    metrics = statistics(sorted(steps), [episode_of(first + index) for index in range(count)])
    numbers["steps"] += metrics["charts/simulator_steps"]
    skipped = float(sum(row.pop(SKIPPED, 0.0) > 0 for row in rows))
    names = dict.fromkeys(name for row in rows for name in row)
    metrics |= {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
    counts = {"charts/updates": len(rows) - skipped, SKIPPED: skipped, "charts/total_steps": numbers["steps"]}
    return metrics | counts


def _update(
    model: SacFlow,
    learner: Learner,
    replay: Replay,
    noise: Noise,
    rl: Rl,
    seed: int,
    numbers: dict[str, float],
    warming: bool,
) -> dict[str, float]:
    """One of the critics; every ``actor_every``-th of policy and temperature too, unless the critics are warming up.
    What was skipped says nothing."""
    device, sac, number = model.policy.device, rl.sac, int(numbers["updates"])
    drawn = replay.draw(seeds.generator("sac_batch", seed, number), sac.batch_size)
    batch = Batch(*(torch.from_numpy(rows).to(device) for rows in drawn))
    rng = seeds.generator("sac_chain", seed, number)
    shape = (2, sac.batch_size, model.policy.denoise_steps + 1, *model.policy.chunk_shape)
    normals = torch.from_numpy(rng.standard_normal(shape, np.float32)).to(device)
    critic = learner.module("critic", batch, normals[0], noise, rl.gamma)
    told = _step(learner, "critic", critic["losses/critic_loss"], critic, ("critic",), numbers)
    model.follow()
    if number % sac.actor_every == 0 and not warming:
        actor = learner.module("actor", batch, normals[1], noise, rl.gamma)
        loss = actor["losses/actor_loss"] + sac.proximal_coef * actor["losses/proximal"]
        loss = loss + actor["losses/temperature_loss"]
        told |= _step(learner, "actor", loss, actor, ("actor", "temperature"), numbers)
    return told


def _step(
    learner: Learner,
    part: str,
    loss: Tensor,
    told: dict[str, Tensor],
    groups: tuple[str, ...],
    numbers: dict[str, float],
) -> dict[str, float]:
    """What the part tells, or that it was skipped. The learner counts those in a row of both parts, of which one may be
    sound while the other never is; here each has its own count. Raises UserError where these are too many."""
    if learner.step(loss, loss.item(), 1.0, groups) is not None:
        numbers[f"skipped_{part}"] = 0
        return {name: float(value.detach()) for name, value in told.items()}
    numbers[f"skipped_{part}"] += 1
    if numbers[f"skipped_{part}"] > learner.max_skipped:
        raise UserError(
            f"rl.algorithm = sac: loss or gradient of the {part} is not finite in {numbers[f'skipped_{part}']:.0f} "
            f"updates in a row (run.max_skipped_updates = {learner.max_skipped}); lower rl.{part}_lr"
        )
    return {SKIPPED: 1.0}

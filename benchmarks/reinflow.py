"""ReinFlow's iteration on Hopper, beside the authors' own code where a clone of it is at hand: what the policy computes
in a rollout, and an update. The simulator is left out of both: theirs needs mujoco-py, which today's systems lack.

``--theirs FOLDER``, or the variable REINFLOW_CODE, is a clone of github.com/ReinFlow/ReinFlow (branch release); it
needs the package einops. Their update goes ten times over each sample in batches ten times as large; it is timed so,
and with as many rows as ours.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.locomotion import random_frames
from benchmarks.measure import Row, alternate, part_parser, ratio, run_part, seconds
from benchmarks.setting import Still
from pirl_core.facts import facts_in
from pirl_core.params.file import Run, resolve
from pirl_core.params.preset import load_preset
from pirl_core.rl.collect import collect
from pirl_core.rl.train import iteration_episodes, noise_at, parameter_groups, process_of
from pirl_core.rl.update import update
from pirl_core.sft.build import build_policy
from pirl_core.training.learner import Learner
from pirl_core.types import Observation

ENOUGH = 2.0
REPEATED = 10
"""Of each sample in an epoch of theirs."""


def setting(slots: int, minibatch: int) -> Run:
    run = resolve(load_preset("reinflow"), "hopper", "reinflow")
    sizes = {"num_envs": slots, "episodes_per_iteration": slots, "minibatch_size": minibatch, "target_kl": None}
    return run._replace(rl=run.rl.model_copy(update=sizes))


def ours(run: Run, decisions: int) -> Callable[[], float]:
    """Gives seconds of one iteration."""
    rl, sentences = run.rl, facts_in(run.env).sentences()
    frames = random_frames(run.env.tasks[0], 0)
    policy = build_policy(run.env, run.policy, frames, sentences, 0).policy
    policy.backbone.freeze_vlm()
    process, noise = process_of(rl), noise_at(rl, 0)
    policy.add_heads(process, rl.critic_layers, True)
    policy.eval()
    learner = Learner(policy, parameter_groups(policy, rl), rl.weight_decay, rl.max_grad_norm, rl.precision, 0)
    pictures = np.zeros((rl.num_envs, 0, 0, 0, 3), np.uint8)
    told = [frames.instructions[0]] * rl.num_envs
    still = Still(Observation(pictures, frames.state[: rl.num_envs], told), decisions)
    episodes = iteration_episodes(run.env.tasks, run.env.shift, rl, 0, 0)

    def iteration() -> None:
        rollout, share, _ = collect(policy, still, episodes, noise, process, rl, (0, 2, 0))
        update(learner, rollout, share, noise, process, rl, np.random.default_rng(0), False, 0)

    return partial(seconds, iteration)


def theirs(folder: Path, run: Run, decisions: int, repeated: int) -> Callable[[], float]:
    """The same of the authors' model, in the order of their agent's loop; what its buffer computes is left out."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    flow = importlib.import_module("model.flow.mlp_flow")
    ppo = importlib.import_module("model.flow.ft_ppo.ppoflow")
    critics = importlib.import_module("model.common.critic")
    facts, rl, chunk = facts_in(run.env), run.rl, run.policy.horizon
    numbers, actions = facts.state_dim(True), len(facts.action)
    model: Any = ppo.PPOFlow(
        device="cpu", policy=flow.FlowMLP(chunk, actions, numbers, 16, [512] * 3, None, "ReLU", residual_style=True),
        critic=critics.CriticObs(numbers, [256] * 3, "Mish", residual_style=True), actor_policy_path=None,
        act_dim=actions, horizon_steps=chunk, act_min=-1, act_max=1, obs_dim=numbers, cond_steps=1,
        noise_scheduler_type="learn_decay", inference_steps=run.policy.denoise_steps,
        ft_denoising_steps=run.policy.denoise_steps, randn_clip_value=3, min_sampling_denoising_std=rl.noise_min_std,
        min_logprob_denoising_std=rl.noise_min_std, max_logprob_denoising_std=rl.noise_max_std, logprob_min=-1.0,
        logprob_max=1.0, clip_ploss_coef=rl.clip_ratio, clip_ploss_coef_base=rl.clip_ratio, clip_ploss_coef_rate=3,
        clip_vloss_coef=None, denoised_clip_value=1.0, time_dim_explore=0, learn_explore_time_embedding=False,
        use_time_independent_noise=False, noise_hidden_dims=[64, 64], logprob_debug_sample=False,
        logprob_debug_recalculate=False, explore_net_activation_type="Tanh",
    )  # fmt: skip
    optimizers = [
        torch.optim.AdamW(model.actor_ft.parameters(), rl.actor_lr, weight_decay=0.0),
        torch.optim.AdamW(model.critic.parameters(), rl.critic_lr, weight_decay=1e-5),
    ]
    alike = {"normalize_denoising_horizon": True, "normalize_act_space_dimension": True}
    seen = np.random.default_rng(0).standard_normal((rl.num_envs, 1, numbers)).astype(np.float32)

    def rollout() -> list[torch.Tensor]:
        kept: list[list[np.ndarray]] = []
        for _ in range(decisions):
            with torch.no_grad():
                shown = {"state": torch.tensor(seen)}
                value = model.critic(shown).numpy().flatten()
                _, chains, density = model.get_actions(shown, eval_mode=False, save_chains=True, **alike)
            kept.append([seen, chains.numpy(), value, density.numpy()])
        return [torch.from_numpy(np.concatenate(column)) for column in zip(*kept, strict=True)]

    def iteration() -> None:
        states, chains, values, densities = rollout()
        count = len(states) * repeated
        for _ in range(rl.update_epochs):
            order = torch.randperm(count)
            for batch in order.split(rl.minibatch_size * repeated):
                rows = batch // repeated
                policy_loss, entropy_loss, value_loss, *_ = model.loss(
                    {"state": states[rows]}, chains[rows], values[rows], values[rows], torch.randn(len(rows)),
                    densities[rows], verbose=False, **alike,
                )  # fmt: skip
                for optimizer in optimizers:
                    optimizer.zero_grad()
                (policy_loss + rl.entropy_coef * entropy_loss + rl.value_coef * value_loss).backward()
                for optimizer in optimizers:
                    optimizer.step()

    return partial(seconds, iteration)


def rows(options: argparse.Namespace) -> list[Row]:
    run = setting(options.slots, options.minibatch)
    sides = {"ours": ours(run, options.decisions)}
    if options.theirs:
        sides["theirs, as configured"] = theirs(options.theirs, run, options.decisions, REPEATED)
        sides["theirs, with as many rows"] = theirs(options.theirs, run, options.decisions, 1)
    spent = alternate(sides, options.rounds)
    how = (
        f"{options.slots} environments that cost nothing, {options.decisions} decisions each, {run.rl.update_epochs} "
        f"epochs in minibatches of {options.minibatch}; in turn, rounds: {options.rounds}, their median"
    )
    found = [
        Row("ReinFlow, an iteration on Hopper without its simulator", f"{np.median(spent['ours']):.1f} s", how=how)
    ]
    for name in list(sides)[1:]:
        factor = ratio(spent[name], spent["ours"])
        found.append(
            Row(
                f"the authors' ({name.partition(', ')[2]}) / ours",
                f"{factor:.2f} × ({np.median(spent[name]):.1f} s)",
                f"≥ {ENOUGH:.0f} ×",
                factor >= ENOUGH,
                how,
            )
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("reinflow", __doc__)
    clone = os.environ.get("REINFLOW_CODE")
    parser.add_argument("--theirs", type=Path, metavar="FOLDER", default=clone, help="a clone of the authors' code")
    parser.add_argument("--slots", type=int, default=40, help="environments")
    parser.add_argument("--decisions", type=int, default=500, help="of each environment")
    parser.add_argument("--minibatch", type=int, default=5000, help="decisions in a minibatch of ours")
    parser.add_argument("--rounds", type=int, default=1, help="iterations of each side")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()

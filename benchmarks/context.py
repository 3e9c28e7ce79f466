"""PPO's update with the rollout's cached contexts, against computing the frozen VLM's contexts again.

A minibatch both ways, and whole updates: all epochs from the store, against encoding every minibatch of every epoch.
"""

import argparse
import statistics
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.measure import Row, alternate, part_parser, ratio, run_part, seconds
from benchmarks.setting import laptop, random_observation, random_policy, wait_for_device
from pirl_core.params.file import Run
from pirl_core.params.sections import Policy
from pirl_core.policy.flow_policy import FlowPolicy, keyed_normals
from pirl_core.rl.collect import Rollout, Samples, Share
from pirl_core.rl.rollout import take
from pirl_core.rl.store import ContextStore
from pirl_core.rl.train import noise_at, parameter_groups, process_of
from pirl_core.rl.update import losses_of, update
from pirl_core.training.learner import Learner, compute_device
from pirl_core.types import Observation

PLENTY = 1e3
"""GiB: every context fits."""
LONG = ["reach-wall-v3", "button-press-wall-v3", "peg-unplug-side-v3", "button-press-topdown-wall-v3"]
"""Tasks whose instructions have 12 tokens."""


def decided(policy: FlowPolicy, run: Run, observation: Observation) -> Samples:
    """Chains that the policy drew for the observations, and made-up advantages."""
    count = len(observation.state)
    process, noise = process_of(run.rl), noise_at(run.rl, 0)
    with torch.no_grad():
        context = policy.encode(observation)
        normals = keyed_normals(
            "chunk", [(row,) for row in range(count)], (policy.denoise_steps + 1, *policy.chunk_shape)
        )
        uniforms = torch.linspace(0, 0.99, count, device=policy.device)
        made = policy.decide(context, normals.to(policy.device), uniforms, noise, process)
    target = torch.linspace(-1, 1, count, device=policy.device)
    # Not the present log-probabilities: at ratio 1 a mistake could cancel.
    return Samples(made.states, made.stochastic, made.log_prob - 0.1, made.value, target, target)


def compare(policy: FlowPolicy, run: Run, label: str, samples: int, rounds: int) -> Row:
    """Forward and backward of one minibatch of ``samples`` decisions, both ways."""
    process, noise = process_of(run.rl), noise_at(run.rl, 0)
    observation = random_observation(run, samples)
    batch = decided(policy, run, observation)
    with torch.no_grad():
        cached = policy.encode(observation)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]

    def train(again: bool) -> tuple[torch.Tensor, ...]:
        """Loss and gradients."""
        context = policy.encode(observation) if again else cached
        losses = losses_of(policy(context, batch.states, batch.stochastic, noise, process), batch, process, run.rl)
        loss = losses["losses/policy_loss"] + losses["losses/value_loss"]
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        wait_for_device()
        return loss.detach(), *(part for part in gradients if part is not None)

    apart = max(float((a - b).abs().max()) for a, b in zip(train(False), train(True), strict=True))
    spent = alternate(
        {"cached": partial(seconds, partial(train, False)), "again": partial(seconds, partial(train, True))}, rounds
    )
    factor = ratio(spent["again"], spent["cached"])
    return Row(
        f"PPO minibatch: context recomputed / cached, {label}",
        f"{factor:.2f} × ({statistics.median(spent['again']):.3f} / {statistics.median(spent['cached']):.3f} s)",
        "> 1 ×, same loss and gradients",
        factor > 1 and apart <= 1e-6,
        f"{samples} decisions; loss and gradients differ by {apart:.0e}",
    )


def whole_update(run: Run, sizes: Policy, label: str, wanted: float, samples: int, size: int, rounds: int) -> Row:
    """``update_epochs`` epochs over ``samples`` decisions in minibatches of ``size``, from the store and encoding each.

    The rollout encodes every observation in order to act, so that its encoding belongs to neither side; what it would
    do to the ratio is told beside. Break-even: after how many epochs a cache that pays for the encoding is ahead.
    """
    policy = random_policy(run, sizes).to(compute_device())
    rl = run.rl.model_copy(update={"minibatch_size": size, "target_kl": None})
    learner = Learner(policy, parameter_groups(policy, rl), rl.weight_decay, rl.max_grad_norm, rl.precision, 0)
    observation = random_observation(run, samples)
    drawn = decided(policy, run, observation)
    start = {name: value.clone() for name, value in policy.state_dict().items()}
    parts = np.array_split(np.arange(samples), -(-samples // size))
    with torch.no_grad():
        contexts = [policy.encode(take(observation, rows)) for rows in parts]

    def filled(budget: float, fresh: bool) -> ContextStore:
        """The rollout's side: what the update starts from. fresh: the contexts are computed here."""
        store = ContextStore(policy.encode, policy.device, budget, 0)
        for rows, context in zip(parts, contexts, strict=True):
            part = take(observation, rows)
            with torch.no_grad():
                store.add(part, policy.encode(part) if fresh else context)
        return store

    def epochs(store: ContextStore) -> None:
        policy.load_state_dict(start)
        rng, share = np.random.default_rng(0), Share(np.zeros(samples, int), np.arange(samples))
        rollout = Rollout(store, drawn)
        update(learner, rollout, share, noise_at(rl, 0), process_of(rl), rl, rng, False, 0)
        wait_for_device()

    kept, dropped = filled(PLENTY, False), filled(0, False)
    epochs(kept)  # warm-up
    spent = alternate(
        {
            "fill": partial(seconds, partial(filled, PLENTY, True)),
            "cached": partial(seconds, partial(epochs, kept)),
            "again": partial(seconds, partial(epochs, dropped)),
        },
        rounds,
    )
    factor = ratio(spent["again"], spent["cached"])
    # Each round is a run of its own: its times are combined before the median is taken.
    runs = list(zip(spent["fill"], spent["cached"], spent["again"], strict=True))
    both = statistics.median((f + a) / (f + c) for f, c, a in runs)
    alone = statistics.median(a / (f + c) for f, c, a in runs)
    pays = statistics.median(rl.update_epochs * f / max(a - c, 1e-9) for f, c, a in runs)
    fill, cached, again = (statistics.median(spent[name]) for name in ("fill", "cached", "again"))
    return Row(
        f"PPO update of {rl.update_epochs} epochs: context recomputed each minibatch / from the store, {label}",
        f"{factor:.2f} × ({again:.2f} / {cached:.2f} s)",
        f"≥ {wanted} ×",
        factor >= wanted,
        f"{samples} decisions in minibatches of {size}; {contexts[0].valid.shape[1]} prefix tokens; a context has "
        f"{kept.fill.row_bytes / 1024:.0f} KiB, its observation "
        f"{(observation.images[0].nbytes + observation.state[0].nbytes) / 1024:.0f} KiB; the rollout's encoding "
        f"({fill:.2f} s) is left out: {both:.2f} × with it on both sides, "
        f"{alone:.2f} × on the cache's alone, which then pays after "
        f"{pays:.1f} epochs",
    )


def rows(options: argparse.Namespace) -> list[Row]:
    run = laptop()
    larger = run.policy.model_copy(update={"size": options.size})
    minibatches = [
        (run.policy, "laptop sizes", options.samples),
        (larger, f"size {options.size}", options.samples // 4),
    ]
    found = [
        compare(random_policy(run, sizes).to(compute_device()), run, label, samples, options.rounds)
        for sizes, label, samples in minibatches
    ]
    size = options.minibatch or run.rl.minibatch_size
    for name, pixels, wanted in ((options.medium, 64, 3.5), (options.medium, 128, 8), (options.size, 64, 3.5)):
        world = {"cameras": ["corner2", "corner3"], "image_size": pixels, "tasks": LONG}
        seen = run._replace(env=run.env.model_copy(update=world))
        sizes = run.policy.model_copy(update={"size": name})
        label = f"size {name}, two images of {pixels}²"
        found.append(whole_update(seen, sizes, label, wanted, options.decisions, size, options.updates))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("context", __doc__)
    add = parser.add_argument
    add("--samples", type=int, default=256, help="decisions of a minibatch, a quarter for the larger model")
    add("--size", choices=["tiny", "S", "M", "L"], default="L", help="policy.size of the larger model")
    add("--medium", choices=["tiny", "S", "M", "L"], default="M", help="policy.size of the whole update")
    add("--rounds", type=int, default=7, help="measurements of each side of a minibatch")
    add("--decisions", type=int, default=512, help="decisions of an update")
    add("--minibatch", type=int, help="decisions of an update's minibatch; by default the laptop scale's")
    add("--updates", type=int, default=3, help="measurements of each side of an update")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()

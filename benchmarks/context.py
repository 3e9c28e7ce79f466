"""A PPO minibatch with the rollout's cached context, against computing the frozen VLM's context again."""

import argparse
import statistics
from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.measure import Row, alternate, part_parser, ratio, run_part, seconds
from benchmarks.setting import laptop, random_observation, random_policy, wait_for_device
from pirl_core.params import Policy, Run
from pirl_core.policy.flow_policy import keyed_normals
from pirl_core.rl.collect import Rollout
from pirl_core.rl.train import noise_at, process_of
from pirl_core.rl.update import losses_of


def compare(run: Run, sizes: Policy, label: str, samples: int, rounds: int) -> Row:
    """Forward and backward of one minibatch of ``samples`` decisions, both ways."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy = random_policy(run, sizes).to(device)
    process, noise = process_of(run.rl), noise_at(run.rl, 0)
    observation = random_observation(run, samples)
    with torch.no_grad():
        cached = policy.encode(observation)
        normals = keyed_normals([(row,) for row in range(samples)], (policy.denoise_steps + 1, *policy.chunk_shape))
        uniforms = torch.linspace(0, 0.99, samples, device=device)
        made = policy.decide(cached, normals.to(device), uniforms, noise, process)
    target = torch.linspace(-1, 1, samples, device=device)
    # Not the present log-probabilities: at ratio 1 a mistake could cancel.
    batch = Rollout(cached, made.states, made.stochastic, made.log_prob - 0.1, made.value, target, target)
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


def rows(options: argparse.Namespace) -> list[Row]:
    run = laptop()
    return [
        compare(run, run.policy, "laptop sizes", options.samples, options.rounds),
        compare(
            run,
            run.policy.model_copy(update={"size": options.size}),
            f"size {options.size}",
            options.samples // 4,
            options.rounds,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("context", __doc__)
    add = parser.add_argument
    add("--samples", type=int, default=256, help="decisions of the minibatch; a quarter of them for the larger VLM")
    add("--size", choices=["tiny", "S", "M", "L"], default="L", help="policy.size of the larger model")
    add("--rounds", type=int, default=7, help="measurements of each side")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()

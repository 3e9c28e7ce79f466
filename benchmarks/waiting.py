"""Whether torch's threads should sleep or spin while they wait for one another, alone and beside a second stage."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from statistics import mean, median

from benchmarks.measure import Row, alternate, cores, part_parser, ratio, run_part, seconds
from pirl_core.stages.cli import WAITING

POLICIES = {"stages": WAITING, "sleep": {"OMP_WAIT_POLICY": "PASSIVE"}, "spin": {}}
"""As stages do, not a moment, and unset: then a thread spins for some milliseconds before it sleeps, so the other
pairs' idle threads are not in the way."""


def serve(samples: int) -> None:
    """A process that does a PPO minibatch for each line it reads, and answers with the seconds."""
    import torch

    from benchmarks.setting import laptop, random_observation, random_policy
    from pirl_core.policy.flow_policy import keyed_normals
    from pirl_core.rl.train import noise_at, process_of

    run = laptop()
    policy = random_policy(run, run.policy)
    process, noise = process_of(run.rl), noise_at(run.rl, 0)
    with torch.no_grad():
        context = policy.encode(random_observation(run, samples))
        normals = keyed_normals(
            "chunk", [(row,) for row in range(samples)], (policy.denoise_steps + 1, *policy.chunk_shape)
        )
        made = policy.decide(context, normals, torch.linspace(0, 0.99, samples), noise, process)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]

    def minibatch() -> None:
        result = policy(context, made.states, made.stochastic, noise, process)
        torch.autograd.grad(result.log_prob.sum() + result.value.sum(), trained, allow_unused=True)

    minibatch()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(seconds(minibatch), flush=True)


def start(policy: dict[str, str], samples: int) -> subprocess.Popen[str]:
    others = {name: value for name, value in os.environ.items() if name not in WAITING}
    return subprocess.Popen(
        [sys.executable, "-c", f"from benchmarks.waiting import serve; serve({samples})"],
        env={**others, "OMP_NUM_THREADS": str(cores()), **policy},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def at_once(processes: Sequence[subprocess.Popen[str]]) -> float:
    """Mean seconds of a minibatch when these processes do one each at the same time, four times over."""
    spent = []
    for _ in range(4):
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        spent += [float(answer(process)) for process in processes]
    return mean(spent)


def rows(options: argparse.Namespace) -> list[Row]:
    found = []
    with ExitStack() as stack:
        pairs = {}
        for name, policy in POLICIES.items():
            pairs[name] = [stack.enter_context(start(policy, options.samples)) for _ in range(2)]
        for pair in pairs.values():
            for process in pair:
                answer(process)
        for label, many in (("one stage", 1), ("two stages at once", 2)):
            spent = alternate({name: partial(at_once, pair[:many]) for name, pair in pairs.items()}, options.rounds)
            found.append(
                Row(
                    f"PPO minibatch, threads sleep at once, or spin for milliseconds / as stages wait, {label}",
                    f"{ratio(spent['sleep'], spent['stages']):.2f} ×, {ratio(spent['spin'], spent['stages']):.2f} × "
                    f"({median(spent['sleep']):.3f}, {median(spent['spin']):.3f} / {median(spent['stages']):.3f} s)",
                    how=f"stages: {' '.join(f'{name}={value}' for name, value in WAITING.items())}; {cores()} threads"
                    " each",
                )
            )
        for pair in pairs.values():
            for process in pair:
                assert process.stdin is not None
                process.stdin.close()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("waiting", __doc__)
    parser.add_argument("--samples", type=int, default=256, help="decisions of the minibatch")
    parser.add_argument("--rounds", type=int, default=6, help="measurements of each side")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()

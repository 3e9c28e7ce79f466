"""How long a learner of risk-sensitive RL takes in the paper's world, planning over all histories anew each episode."""

import argparse
import statistics
from collections.abc import Sequence

from benchmarks.measure import Row, part_parser, run_part, seconds
from pirl_core.params.preset import load_preset
from pirl_core.risk.beta import operator, plan
from pirl_core.risk.learn import learn
from pirl_core.risk.model import pomdp_of

EPISODES, MOST_SECONDS = 2000, 5.0


def rows(options: argparse.Namespace) -> list[Row]:
    section = load_preset("risk").risk
    pomdp = pomdp_of(section.experiments["pomdp"])
    M = operator(pomdp, 1.0)
    histories = sum(map(len, plan(pomdp.initial, M, 1.0, pomdp.reward).policy))

    def one() -> None:
        for _ in learn(pomdp, 1.0, section.methods["literal"], options.episodes, section.delta, 0):
            pass

    spent = statistics.median(seconds(one) for _ in range(options.rounds)) * EPISODES / options.episodes
    planning = statistics.median(
        seconds(lambda: plan(pomdp.initial, M, 1.0, pomdp.reward)) for _ in range(10 * options.rounds)
    )
    return [
        Row(
            f"risk: {EPISODES} episodes of one learner, the paper's world",
            f"{spent:.2f} s",
            f"≤ {MOST_SECONDS:g} s",
            spent <= MOST_SECONDS,
            f"one core; median of {options.rounds}",
        ),
        Row("risk: one plan", f"{1e3 * planning:.2f} ms", how=f"{histories} histories"),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("risk", __doc__)
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of a learner; told as of all")
    parser.add_argument("--rounds", type=int, default=5, help="learners")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()

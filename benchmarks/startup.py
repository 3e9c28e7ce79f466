"""How long the command line and an up-to-date pipeline keep one waiting."""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.measure import Row, alternate, part_parser, run_part, seconds

ROOT = Path(__file__).parents[1]
HELP = {
    "pirl status --help": [sys.executable, "-m", "pirl_core", "status", "--help"],
    "rl --help": [sys.executable, "-m", "pirl_core.stages.rl", "--help"],
}
HELP_SECONDS, REPRO_SECONDS = 1.0, 3.0


def run(command: list[str]) -> None:
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def help_rows(rounds: int) -> list[Row]:
    spent = alternate({name: partial(seconds, partial(run, words)) for name, words in HELP.items()}, rounds)
    return [
        Row(
            f"`{name}`",
            f"{statistics.median(times):.2f} s",
            f"≤ {HELP_SECONDS:.0f} s",
            statistics.median(times) <= HELP_SECONDS,
            f"a new process; median of {rounds}",
        )
        for name, times in spent.items()
    ]


def repro_row(rounds: int) -> Row:
    """Asks for nothing to be computed: only where `dvc status` says that all is up to date but the stage that always
    runs."""
    what, repro = "`make reproduce`, nothing to do", [sys.executable, "-m", "pirl_core.commands.repro"]
    run([sys.executable, "-m", "pirl_core.stages.sources"])
    asked = [sys.executable, "-m", "dvc", "status", "--json"]
    status = subprocess.run(asked, cwd=ROOT, check=False, capture_output=True)
    if status.returncode or set(json.loads(status.stdout)) - {"sources"}:
        return Row(what, "not measured", f"≤ {REPRO_SECONDS:.0f} s", None, "the pipeline is not up to date here")
    spent = statistics.median(seconds(lambda: run(repro)) for _ in range(rounds))
    how = f"this checkout with its outputs, without make's own tenths; median of {rounds}"
    return Row(what, f"{spent:.2f} s", f"≤ {REPRO_SECONDS:.0f} s", spent <= REPRO_SECONDS, how)


def rows(options: argparse.Namespace) -> list[Row]:
    return [*help_rows(options.rounds), repro_row(options.rounds)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("startup", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each command")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()

"""What the parts share: alternating measurements, rows of the table, one command line."""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from pirl_core import console


class Row(NamedTuple):
    """One line of the table. holds: None where there is no target, or where nothing could be measured."""

    what: str
    measured: str
    target: str = ""
    holds: bool | None = None
    how: str = ""


Measured = TypeVar("Measured")


def alternate(sides: dict[str, Callable[[], Measured]], rounds: int) -> dict[str, list[Measured]]:
    """What each side returns in each round; every other round goes backwards, so that a machine's drift cancels."""
    results: dict[str, list[Measured]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            results[name].append(sides[name]())
    return results


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios of the rounds."""
    return statistics.median(n / d for n, d in zip(numerators, denominators, strict=True))


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Median time of one call, after one to warm up."""
    call()
    return 1e3 * statistics.median(seconds(call) for _ in range(repeats))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def table(rows: Iterable[Row]) -> str:
    """Markdown."""
    verdict = {True: "yes", False: "**no**", None: ""}
    lines = ["| what | measured | target | holds | how |", "|---|---|---|---|---|"]
    lines += [f"| {r.what} | {r.measured} | {r.target} | {verdict[r.holds]} | {r.how} |" for r in rows]
    return "\n".join(lines) + "\n"


def run_part(
    parser: argparse.ArgumentParser,
    rows: Callable[[argparse.Namespace], list[Row]],
    arguments: Sequence[str] | None,
) -> None:
    """Parse, measure, print the rows, and keep them for ``python -m benchmarks``."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE as well")
    options = parser.parse_args(arguments)
    measured = rows(options)
    print(table(measured))
    if options.json:
        options.json.write_text(json.dumps(measured))


def part_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser that is called as the part is: ``python -m benchmarks.<module>``."""
    console.speak()
    about = (description or "").split("\n\n")[0].replace("\n", " ")
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}",
        description=about,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

"""``python -m pirl_core.commands.paper``: runs the parts of a twin one after the other, then writes its page.

A part is a preset, with results of its own (``report.evidence.parts_of``). DVC skips what is up to date, so a run that
was stopped goes on where it was. Each finished stage is told, with the time that is left.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import NamedTuple, TypeVar

from pirl_core import console
from pirl_core.errors import UserError, told
from pirl_core.files import write_text
from pirl_core.params.preset import load_preset, preset_text
from pirl_core.params.sections import Params
from pirl_core.readers.text import read_json, read_text
from pirl_core.report.evidence import parts_of
from pirl_core.report.folder import RESULTS
from pirl_core.report.inputs import stage_names, unlike
from pirl_core.report.papers import cells, curves
from pirl_core.report.papers.__main__ import write
from pirl_core.report.papers.schema import Figure, Papers, Table, read_papers
from pirl_core.report.tables import seconds
from pirl_core.report.twins import TWINS

PARAMS = Path("params.yaml")
RECORDS = Path("outputs/run")
SECONDS_BETWEEN_LOOKS = 5.0
REMEDY = "delete it, or run `make reproduce`"


class Run(NamedTuple):
    """One run of a stage in a part."""

    part: str
    stage: str
    name: str


Item = TypeVar("Item", Table, Figure)
Took = dict[Run, float]
"""Wall seconds of runs."""


def chosen_parts(papers: Papers, twin: str, tables: Iterable[str], figures: Iterable[str]) -> list[str]:
    """The parts that these need, as few as will do; all where none is named.

    Raises UserError for a table or figure that no file has, and where no part has a run of them.
    """
    runs = [cells.runs_of(_find(papers.tables, "table", "Table", name), twin) for name in tables]
    runs += [curves.runs_of(_find(papers.figures, "figure", "Fig.", name), twin) for name in figures]
    if not runs:
        return parts_of(twin)
    found = cells.parts_with([run for some in runs for run in some], twin)
    if not found:
        raise UserError(f"no part of {twin} has a run of these yet; docs/paper.md has the parts")
    return found


def _find(items: Mapping[str, Item], key: str, word: str, name: str) -> Item:
    """By its file's name, or by its number in π_RL."""
    for stem, item in items.items():
        if name == stem or (item.paper == "π_RL" and item.name == f"{word} {name}"):
            return item
    raise UserError(f"{key} = {name!r}: no such file; give a number of π_RL, or one of {', '.join(items)}")


def remaining(pending: Iterable[Run], took: Took) -> float | None:
    """Seconds that ``pending`` will take: as runs of the same part, stage and method took with other seeds, else of the
    same part and stage, else of the same stage; None where one has no like."""
    likes = (
        lambda run: (run.part, run.stage, run.name.rpartition("-")[0]),
        lambda run: (run.part, run.stage),
        lambda run: run.stage,
    )
    total = 0.0
    for run in pending:
        near = ([spent for other, spent in took.items() if like(other) == like(run)] for like in likes)
        spent = next((known for known in near if known), None)
        if spent is None:
            return None
        total += sum(spent) / len(spent)
    return total


def finished(params: Params, before: Took) -> Took:
    """What ran with these parameters and is still there. before: of an earlier look, which is not read again."""
    took: Took = {}
    for stage, name in stage_names(params):
        run, path = Run(params.scale, stage, name), RECORDS / stage / f"{name}.json"
        if path.exists():
            if run in before:
                took[run] = before[run]
                continue
            record = read_json(path, REMEDY)
            if not unlike(params, stage, name, record.get("params") or {}):
                took[run] = float(record.get("wall_seconds") or 0.0)
    return took


def runs_of_part(part: str) -> list[Run]:
    return [Run(part, stage, name) for stage, name in stage_names(load_preset(part))]


def recorded(parts: Iterable[str], results: Path) -> Took:
    """Of earlier runs, from the parts' run.json."""
    took: Took = {}
    for part in parts:
        path = results / part / "run.json"
        for record in read_json(path, REMEDY).get("records", []) if path.exists() else []:
            took[Run(part, record["stage"], record["name"])] = float(record.get("wall_seconds") or 0.0)
    return took


def run_parts(parts: list[str], overwrite: bool) -> tuple[int, list[str]]:
    """Runs them; returns an exit code and those that failed. Bad input, or a signal, ends all; a failed stage its part.

    params.yaml is then as it was.
    """
    before = read_text(PARAMS, REMEDY) if PARAMS.exists() else None
    took: Took = recorded(parts, RESULTS)
    failed: list[str] = []
    todo = {part: runs_of_part(part) for part in parts}
    code = 0
    for number, part in enumerate(parts, 1):
        one = _run_part(part, f"part {number} of {len(parts)}, {part}", todo, took, overwrite)
        del todo[part]
        if one:
            code = code or one
            failed.append(part)
        if one == 2 or one < 0 or one >= 128:
            break
    if before is not None and PARAMS.read_text(encoding="utf-8") in map(preset_text, parts):
        write_text(PARAMS, before)
    return code, failed


def _run_part(part: str, label: str, todo: dict[str, list[Run]], took: Took, overwrite: bool) -> int:
    """Its exit code."""
    words = ["-m", "pirl_core.commands.repro", "--scale", part, *(["--overwrite"] if overwrite else [])]
    params = load_preset(part)
    done = finished(params, {})
    took |= done
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, *words])
    try:
        while process.poll() is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            now = finished(params, done)
            if now.keys() != done.keys():
                took |= now
                done = now
                here = [run for run in todo[part] if run not in done]
                later = [run for name, runs in todo.items() if name != part for run in runs]
                spent = seconds(time.monotonic() - began)
                left, whole = seconds(remaining(here, took)), seconds(remaining(here + later, took))
                counts = f"{len(done)} of {len(todo[part])} runs in {spent}"
                print(f"paper: {label}: {counts}; about {left} left here, {whole} in all", flush=True)
    finally:
        process.terminate()
        process.wait()
    return process.returncode


def _stop(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(argv: list[str] | None = None) -> int:
    console.speak()
    parser = argparse.ArgumentParser(
        prog="python -m pirl_core.commands.paper",
        description="Run the parts of a twin one after the other, and write its page of tables, figures and claims.",
    )
    parser.add_argument("--twin", choices=TWINS, default="paper_small", help="which size (default: %(default)s)")
    parser.add_argument("--table", action="append", default=[], metavar="NUMBER", help="only what this table needs")
    parser.add_argument("--figure", action="append", default=[], metavar="NUMBER", help="only what this figure needs")
    parser.add_argument("--overwrite", action="store_true", help="a params.yaml with edits of your own too")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _stop)
    try:
        papers = read_papers()
        parts = chosen_parts(papers, args.twin, args.table, args.figure)
        print(f"paper: {', '.join(parts)}", flush=True)
        code, failed = run_parts(parts, args.overwrite)
        write(papers, args.twin)
    except (UserError, OSError) as error:
        if (said := told(error)) is None:
            raise
        return console.refuse("paper", said)
    except KeyboardInterrupt:
        return 130
    if failed:
        print(f"pirl: paper: {', '.join(failed)} did not end; the same command goes on there", file=sys.stderr)
    else:
        print(f"\nNext: look at results/{args.twin}/paper.md and outputs/paper/{args.twin}.html")
    return code


if __name__ == "__main__":
    raise SystemExit(main())

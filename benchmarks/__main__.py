"""Runs every benchmark, each in a process of its own, and keeps what each measured in a file of its own.

``python -m benchmarks --output benchmarks/RESULTS.md`` runs all and makes a page of them; with ``--only serving`` that
part alone is measured anew, and the page has the others as they were, each with the day, revision and machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, table
from pirl_core import console
from pirl_core.files import write_json
from pirl_core.provenance.machine import machine
from pirl_core.provenance.packages import versions
from pirl_core.provenance.revision import revision
from pirl_core.stages.cli import set_threads

PARTS = (
    "environments",
    "cluster",
    "machines",
    "overlap",
    "scaling",
    "simulators",
    "context",
    "iteration",
    "waiting",
    "memory",
    "dataset",
    "risk",
    "reinflow",
    "sac_library",
    "startup",
    "serving",
)
LONG = ("full_size", "gpu", "gradient_norms")
"""Only where they are asked for: they take most of a small machine's memory, a GPU, or trainings of minutes."""
PACKAGES = ("torch", "transformers", "accelerate", "peft", "numpy", "mujoco", "metaworld", "pandas", "pyarrow", "dvc")
Measured = dict[str, Any]
"""rows, and where and when they were measured: machine, software, revision, begun, minutes, load."""


def measured(part: str) -> Measured | None:
    """What one part finds on this machine; None when it failed, which it has told on the terminal."""
    load, begun = os.getloadavg()[0], time.time()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{part}", "--json", str(file)]
        if subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode:
            return None
        rows = json.loads(file.read_text())
    here, found = machine(), versions(PACKAGES)
    packages = ", ".join(f"{name} {found[name]}" for name in PACKAGES if name in found)
    return {
        "machine": f"{here['cpu']}, {here['cores']} cores, {here['memory_mib']} MiB of memory, {here['system']}",
        "software": f"Python {sys.version.split()[0]}, {packages}",
        "revision": str(revision()),
        "begun": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(begun)),
        "minutes": round((time.time() - begun) / 60, 1),
        "load": round(load, 2),
        "rows": rows,
    }


def page(parts: dict[str, Measured]) -> str:
    """A table a part, with the machine and the day that it was measured on."""
    rows = [Row(*row) for found in parts.values() for row in found["rows"]]
    judged = [row for row in rows if row.target]
    sections = [
        f"## {part}\n\n{_where(found)}\n\n{table(Row(*row) for row in found['rows'])}" for part, found in parts.items()
    ]
    return f"""# Benchmarks

Made by `make bench`, each part by `python -m benchmarks --only PART --output benchmarks/RESULTS.md`. \
{sum(row.holds is True for row in judged)} of {len(judged)} targets hold.

Both sides of a ratio are measured in turn in one run, every other round in reverse order; a ratio is the median over
the rounds. A load near 0 says that nothing else ran.

{chr(10).join(sections)}"""


def _where(found: Measured) -> str:
    when = [found["begun"], f"revision {found['revision']}"]
    # The oldest rows were measured in one go, before each part had a file.
    when += [f"{found['minutes']} minutes"] if found["minutes"] is not None else []
    when += [f"load before the start {found['load']}"] if found["load"] is not None else []
    return f"{', '.join(when)}; {found['machine']}; {found['software']}"


def main() -> int:
    console.speak()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Run the benchmarks and print the tables of what they measured."
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=(*PARTS, *LONG),
        default=PARTS,
        metavar="PART",
        help=f"some of: {', '.join((*PARTS, *LONG))}",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the tables to FILE as well, and the rows to measured/ beside it",
    )
    options = parser.parse_args()
    set_threads()  # the parts inherit the environment that stages give themselves
    kept = options.output.with_name("measured") if options.output else None
    parts = {
        part: json.loads(path.read_text())
        for part in (*PARTS, *LONG)
        if kept and (path := kept / f"{part}.json").is_file()
    }
    failed = []
    for part in options.only:
        print(f"--- {part}", flush=True)
        found = measured(part)
        if found is None:
            failed.append(part)
            continue
        parts[part] = found
        if kept:
            kept.mkdir(parents=True, exist_ok=True)
            write_json(kept / f"{part}.json", found)
    text = page({part: parts[part] for part in (*PARTS, *LONG) if part in parts})
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    if failed:
        print(f"benchmarks: {', '.join(failed)} failed", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

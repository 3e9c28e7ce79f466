"""Runs every benchmark, each in a process of its own, and makes one table of the rows.

python -m benchmarks --output benchmarks/RESULTS.md
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Row, table
from pirl_core import console
from pirl_core.provenance.machine import machine
from pirl_core.provenance.packages import versions
from pirl_core.provenance.revision import revision
from pirl_core.stages.cli import set_threads

PARTS = (
    "environments",
    "cluster",
    "simulators",
    "context",
    "iteration",
    "waiting",
    "memory",
    "dataset",
    "risk",
    "sac_library",
    "startup",
    "serving",
)

PACKAGES = ("torch", "transformers", "accelerate", "peft", "numpy", "mujoco", "metaworld", "dvc")


def measured(part: str) -> list[Row] | None:
    """The rows of one part; None when it failed, which it has told on the terminal."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{part}", "--json", str(file)]
        if subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode:
            return None
        return [Row(*row) for row in json.loads(file.read_text())]


def page(rows: list[Row], load: float, begun: float) -> str:
    """The table, and the machine it was measured on."""
    here = machine()
    judged = [row for row in rows if row.target]
    found = versions(PACKAGES)
    packages = ", ".join(f"{name} {found[name]}" for name in PACKAGES if name in found)
    return f"""# Benchmarks

Made by `make bench`. {sum(row.holds is True for row in judged)} of {len(judged)} targets hold.

* Machine: {here["cpu"]}, {here["cores"]} cores, {here["memory_mib"]} MiB of memory, {here["system"]}
* Software: Python {sys.version.split()[0]}, {packages}; revision {revision()}
* {time.strftime("%Y-%m-%d %H:%M", time.gmtime(begun))} UTC, {(time.time() - begun) / 60:.1f} minutes; load average \
before the start {load:.2f} (near 0: nothing else ran)

{table(rows)}
Both sides of a ratio are measured in turn in one run, every other round in reverse order; a ratio is the median over
the rounds.
"""


def main() -> int:
    console.speak()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Run the benchmarks and print one table of what they measured."
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"some of: {', '.join(PARTS)}"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table to FILE as well")
    options = parser.parse_args()
    set_threads()  # the parts inherit the environment that stages give themselves
    load, begun = os.getloadavg()[0], time.time()
    rows: list[Row] = []
    failed = []
    for part in options.only:
        print(f"--- {part}", flush=True)
        found = measured(part)
        if found is None:
            failed.append(part)
        rows += found or []
    text = page(rows, load, begun)
    print(text)
    if failed:
        print(f"benchmarks: {', '.join(failed)} failed; nothing written", file=sys.stderr)
        return 1
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

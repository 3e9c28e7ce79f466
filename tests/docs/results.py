"""Results as results/ has them: ``python -m tests.docs.results`` writes them between the marks of README (the main
table) and of docs/results.md (all tables)."""

import json
import re

from pirl_core.report.tables import memory, seconds
from tests import ROOT
from tests.docs.pages import replaced

MARK = "results"
PAGES = {"README.md": True, "docs/results.md": False}
"""Page → whether it shows the main table alone."""


def render(report: str, runs: str, main_only: bool) -> str:
    """What stands between the marks. report: results/report.md. runs: results/run.json."""
    told = json.loads(runs)
    wall, peak = seconds(told["total_wall_seconds"]), memory(told["peak_memory_mib"])
    scale = re.search(r"^Scale .*$", report, re.MULTILINE)
    tables = re.search(r"(?<=^## Results\n\n).*?(?=^## Learning)", report, re.MULTILINE | re.DOTALL)
    assert scale and tables, "results/report.md has other sections"
    shown = re.split(r"^## ", tables[0], flags=re.MULTILINE)[0] if main_only else tables[0]
    cost = f"{wall} of stages on {', '.join(told['machines'])}, {peak} at the peak"
    return f"{scale[0]} It took {cost}.\n\n{shown.rstrip()}\n"


def main() -> None:
    report, runs = ((ROOT / "results" / name).read_text(encoding="utf-8") for name in ("report.md", "run.json"))
    for name, main_only in PAGES.items():
        page = ROOT / name
        text = replaced(page.read_text(encoding="utf-8"), MARK, render(report, runs, main_only))
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

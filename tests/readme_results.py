"""README's results, as results/ has them: ``python -m tests.readme_results`` writes them between README's marks."""

import json
import re
from pathlib import Path

from pirl_core.report.tables import memory, seconds

ROOT = Path(__file__).parents[1]
MARKS = "<!-- results:begin -->\n", "<!-- results:end -->"


def render(report: str, runs: str) -> str:
    """What stands between the marks. report: results/report.md. runs: results/run.json."""
    told = json.loads(runs)
    wall, peak = seconds(told["total_wall_seconds"]), memory(told["peak_memory_mib"])
    scale = re.search(r"^Scale .*$", report, re.MULTILINE)
    tables = re.search(r"(?<=^## Results\n\n).*?(?=^## Learning)", report, re.MULTILINE | re.DOTALL)
    assert scale and tables, "results/report.md has other sections"
    cost = f"{wall} of stages on {', '.join(told['machines'])}, {peak} at the peak"
    return f"{scale[0]} It took {cost}.\n\n{tables[0].replace('## ', '#### ').rstrip()}\n"


def block(readme: str) -> str:
    return readme.split(MARKS[0])[1].split(MARKS[1])[0]


def main() -> None:
    page = ROOT / "README.md"
    before = page.read_text(encoding="utf-8")
    report, runs = ((ROOT / "results" / name).read_text(encoding="utf-8") for name in ("report.md", "run.json"))
    page.write_text(before.replace(block(before), render(report, runs)), encoding="utf-8")


if __name__ == "__main__":
    main()

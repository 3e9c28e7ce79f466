"""Iterations at the paper's scale as the model foretells them: ``python -m tests.docs.scaling`` writes the table
between the marks of docs/scaling.md, and docs/scaling.svg beside it."""

from collections.abc import Sequence
from itertools import groupby

from pirl_core.commands.forecast import GPUS, SIMULATORS, short
from pirl_core.params.file import resolve
from pirl_core.params.preset import load_preset
from pirl_core.plan.costs import COMMITTED, read_costs
from pirl_core.plan.counted import counted
from pirl_core.plan.sweep import Cell, Fleet, cells
from pirl_core.report.pages import replaced
from pirl_core.report.scaling import picture
from tests import ROOT

PAGE, PICTURE = ROOT / "docs/scaling.md", ROOT / "docs/scaling.svg"
MARK = "scaling"


def foretold(gpus: Sequence[int] = GPUS, simulators: Sequence[int] = SIMULATORS) -> list[Cell]:
    """Of π0 on MetaWorld with the paper's numbers, by the costs that the project has."""
    run = resolve(load_preset("paper"), "metaworld", "flow_sde")
    return list(cells(run, read_costs(COMMITTED), counted(run), Fleet(), gpus, simulators))


def render(found: Sequence[Cell]) -> str:
    """What stands between the marks."""
    head = [f"{count:,} simulators" for count in dict.fromkeys(cell.simulators for cell in found)]
    lines = ["| GPUs | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for gpus, row in groupby(found, lambda cell: cell.gpus):
        lines.append(f"| {gpus} | " + " | ".join(map(short, row)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    found = foretold()
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), MARK, render(found)), encoding="utf-8")
    PICTURE.write_text(picture(found), encoding="utf-8")


if __name__ == "__main__":
    main()

"""``python -m pirl_core.report.show``: the results table and where the report is. Loads no heavy library."""

import argparse
from pathlib import Path

from pirl_core import console
from pirl_core.errors import UserError
from pirl_core.readers.text import read_json
from pirl_core.report.folder import results_of
from pirl_core.report.tables import memory, results_table, seconds

NEXT = "open the report; pirl compare {}; pirl claims; make help lists the rest"
REMEDY = "run `make reproduce`"


def show(results: Path, page: Path) -> str:
    """The text to print. Raises UserError where there are no results yet."""
    try:
        metrics = read_json(results / "metrics.json", REMEDY)
        runs = read_json(results / "run.json", REMEDY)
        table = results_table(metrics)
        wall, peak = seconds(runs["total_wall_seconds"]), memory(runs["peak_memory_mib"])
        cost = f"{wall} over {runs['recorded']} stage runs, peak memory {peak}"
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{results} holds metrics.json and run.json of another version; {REMEDY}") from None
    names = list(dict.fromkeys(f"{row['experiment']}-{row['method']}" for row in metrics["rows"]))
    following = NEXT.format(" ".join(names[:2]) if len(names) > 1 else "A B")
    where = page.resolve().as_uri() if page.exists() else f"{page} is absent: run make stage STAGE=report"
    return f"{table}\n\nWall time  {cost}\nReport     {where}\nNext       {following}"


def main(argv: list[str] | None = None) -> int:
    console.speak()
    parser = argparse.ArgumentParser(
        prog="python -m pirl_core.report.show", description="Print the results table and where the report is."
    )
    parser.add_argument("--scale", help="whose results (default: the scale of params.yaml)")
    args = parser.parse_args(argv)
    try:
        print(show(results_of(args.scale), Path("outputs/report/report.html")))
    except UserError as error:
        return console.refuse("show", str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Stage report: every evaluation that params.yaml lists → results/ and the page."""

from pathlib import Path

from pirl_core.params.sections import Params
from pirl_core.stages.cli import report_main


def run(params: Params) -> None:
    from pirl_core.report.build import build_report

    build_report(params, Path("outputs"), Path("results"))
    print(
        "[report all] results/report.md, outputs/report/report.html; python -m pirl_core.report.show prints the table"
    )


if __name__ == "__main__":
    raise SystemExit(report_main(run))

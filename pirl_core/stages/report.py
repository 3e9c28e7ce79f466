"""Stage report: every evaluation that params.yaml lists → results/ and the page."""

from pathlib import Path

from pirl_core.params.sections import Params
from pirl_core.stages.cli import report_main


def run(params: Params) -> None:
    from pirl_core.report.build import build_report
    from pirl_core.report.tables import results_table

    print(results_table(build_report(params, Path("outputs"), Path("results"))))


if __name__ == "__main__":
    raise SystemExit(report_main(run))

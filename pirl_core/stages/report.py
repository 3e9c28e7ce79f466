"""Stage report: every evaluation that params.yaml lists → results/<scale>/ and the page."""

from pathlib import Path

from pirl_core.params.sections import Params
from pirl_core.stages.cli import report_main


def run(params: Params) -> None:
    from pirl_core.report.build import build_report
    from pirl_core.report.folder import results_of
    from pirl_core.report.older import present_digest

    results = results_of(params.scale)
    build_report(params, Path("outputs"), results, present_digest)
    print(f"[report all] {results}/report.md, outputs/report/report.html; the table: python -m pirl_core.report.show")


if __name__ == "__main__":
    raise SystemExit(report_main(run))

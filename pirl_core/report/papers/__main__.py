"""``python -m pirl_core.report.papers``: writes the page of each twin that has results.

results/<twin>/paper.md and the pictures it shows, results/<twin>/figures/*.svg; and the same as one file that opens
offline, outputs/paper/<twin>.html.
"""

import argparse
from pathlib import Path

from pirl_core import console
from pirl_core.errors import UserError, told
from pirl_core.files import write_text
from pirl_core.report.claim_file import read_claims
from pirl_core.report.claims import claims_table, judge
from pirl_core.report.evidence import read_evidence
from pirl_core.report.folder import RESULTS
from pirl_core.report.papers.page import pictures, read_contents, render_html, render_markdown
from pirl_core.report.papers.schema import Papers, read_papers
from pirl_core.report.twins import TWINS


def written(papers: Papers, results: Path, outputs: Path, twin: str) -> dict[Path, str]:
    """{path: text} of a twin's page; {} where none of its parts has results.

    Raises UserError for results that cannot be read.
    """
    evidence = read_evidence(results, twin)
    if not evidence.scales:
        return {}
    contents = read_contents(papers, evidence, claims_table(judge(evidence, read_claims())))
    return {
        results / twin / "paper.md": render_markdown(contents),
        outputs / "paper" / f"{twin}.html": render_html(contents),
        **{results / twin / "figures" / name: svg for name, svg in pictures(contents).items()},
    }


def write(papers: Papers, twin: str) -> None:
    """Writes them in the repository's root, and tells their paths."""
    for path, text in written(papers, RESULTS, Path("outputs"), twin).items():
        write_text(path, text)
        print(path)


def main(argv: list[str] | None = None) -> int:
    console.speak()
    about = "Write the page with the paper's tables and figures of each twin that has results."
    argparse.ArgumentParser(prog="python -m pirl_core.report.papers", description=about).parse_args(argv)
    try:
        papers = read_papers()
        for twin in TWINS:
            write(papers, twin)
    except (UserError, OSError) as error:
        if (said := told(error)) is None:
            raise
        return console.refuse("papers", said)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

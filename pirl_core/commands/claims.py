"""``pirl claims``: what results/ says of the paper's claims."""

import argparse
import sys
import textwrap
from pathlib import Path

from pirl_core.errors import UserError
from pirl_core.report.twins import SIBLINGS, TWINS

SUMMARY = "the paper's claims with the verdicts of the runs in results/"
WIDTH = 60
"""Of a claim's name and text in the table, on a terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--twin",
        choices=(*TWINS, *SIBLINGS),
        default="paper_small",
        help="whose claims and runs: π_RL's, of its models or of tiny ones, or a sibling's (default: paper_small)",
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="the folder with those of the parts (default: results)"
    )


def run(args: argparse.Namespace) -> None:
    from pirl_core.report.claim_file import claims_of, read_claims
    from pirl_core.report.claims import claims_table, judge, summary
    from pirl_core.report.evidence import read_evidence
    from pirl_core.report.tables import aligned

    if not args.results.is_dir():
        raise UserError(f"--results {args.results}: no such folder; give one whose folders are parts, such as results")
    verdicts = judge(read_evidence(args.results, args.twin), read_claims(claims_of(args.twin)))
    header, cells = claims_table(verdicts)
    # A terminal has no room for the source, nor for long sentences; docs and files call a claim by its name.
    said = [
        "" if number else f"{one.name}: {one.claim.text}" for one in verdicts for number in range(len(one.comparisons))
    ]
    if sys.stdout.isatty():
        said = [textwrap.shorten(text, WIDTH, placeholder=" …") for text in said]
    lines = [[text, *rest] for text, (_, _, *rest) in zip(said, cells, strict=True)]
    print(aligned([header[0], *header[2:]], lines))
    print(f"\n{summary(verdicts)}. Differences of shares are in points; docs/claims.md says what a verdict means.")

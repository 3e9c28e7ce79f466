"""``python -m pirl_core.report.pages``: writes the tables of README, docs/ and results/README.md from results/.

They stand between ``<!-- results:SCALE:begin -->`` and ``<!-- results:SCALE:end -->``, those of all scales in
results/README.md between ``<!-- results:begin -->`` and its end.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from pirl_core import console
from pirl_core.errors import UserError, told
from pirl_core.files import write_text
from pirl_core.readers.text import read_json, read_text
from pirl_core.report import tables
from pirl_core.report.folder import RESULTS
from pirl_core.report.markdown import CHAINS, main_table
from pirl_core.report.older import Older, Present, older_rows, present_digest

MARK = "results"
ALL = "results/README.md"
FIRST, LAST = "laptop", "smoke"
ABSENT = "Not run at a present revision yet."
REMEDY = "run `make reproduce` with its SCALE"
ELSEWHERE = "run this in the repository's root"
OF_SCALE = re.compile(rf"<!-- {MARK}:(\w+):begin -->")


def block(page: str, name: str) -> str:
    """What a page has between its marks ``<!-- name:begin -->`` and ``<!-- name:end -->``."""
    begin, end = _marks(name)
    return page.split(begin)[1].split(end)[0]


def replaced(page: str, name: str, text: str) -> str:
    """The page with ``text`` between its marks."""
    begin, end = _marks(name)
    before, rest = page.split(begin)
    return before + begin + text + end + rest.split(end)[1]


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"


def scales(results: Path) -> list[str]:
    """Those that have results: the default scale first, the one that learns nothing last."""
    found = sorted(path.parent.name for path in results.glob("*/metrics.json"))
    return sorted(found, key=lambda name: (name == LAST, name != FIRST))


def render_scale(folder: Path, present: Present, main_only: bool = False) -> str:
    """Markdown of one scale's results: what it cost, the main table and, unless ``main_only``, more; or that it lacks.

    Raises UserError for files that cannot be read.
    """
    if not (folder / "metrics.json").is_file():
        return f"{ABSENT}\n"
    metrics, runs = (read_json(folder / name, REMEDY) for name in ("metrics.json", "run.json"))
    try:
        older = older_rows([*metrics["rows"], *metrics.get("regret", [])], runs["records"], present)
        parts = [_cost(folder.name, metrics, runs), *main_table(metrics, folder.name, older)]
        parts += [] if main_only else _more(metrics, older)
    except (KeyError, TypeError, AttributeError, IndexError):
        raise UserError(f"{folder} holds metrics.json and run.json of another version; {REMEDY}") from None
    return "\n\n".join(part for part in parts if part) + "\n"


def _cost(scale: str, metrics: dict[str, Any], runs: dict[str, Any]) -> str:
    seeds = (metrics["rows"] or metrics["regret"])[0]["seeds"]
    wall, peak = tables.seconds(runs["total_wall_seconds"]), tables.memory(runs["peak_memory_mib"])
    return (
        f"Scale `{scale}`, training seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}, "
        f"revision {', '.join(runs['revisions']) or 'unknown'}: {wall} of stages on "
        f"{'; '.join(runs['machines']) or 'an unknown machine'}; {peak} of memory at the peak."
    )


def _more(metrics: dict[str, Any], older: Older) -> list[str]:
    parts = []
    chains = tables.chains_table(metrics, older)
    if chains[1]:
        parts += [f"**Sequences.** {CHAINS}", tables.markdown(*chains)]
    if metrics["differences"]:
        parts += ["**RL − SFT**, paired episode by episode:"]
        parts += [tables.markdown(*tables.differences_table(metrics, older))]
    if published := [row for row in metrics.get("regret", []) if row["paper"] is not None]:
        parts += ["**Beside the authors' logs.**", tables.markdown(*tables.learners_table(published, older))]
    return parts


def render_all(results: Path, present: Present) -> str:
    """All scales that were run, a section each."""
    parts = [f"## {name}\n\n{render_scale(results / name, present)}" for name in scales(results)]
    return "\n".join(parts) or f"{ABSENT}\n"


def written(root: Path, results: Path, present: Present) -> dict[Path, str]:
    """The pages with their tables as ``results`` has them: {path: text}. README shows the main table alone."""
    readme, front = root / ALL, root / "README.md"
    pages = {path: read_text(path, ELSEWHERE) for path in [front, readme, *sorted((root / "docs").rglob("*.md"))]}
    for path, text in pages.items():
        for scale in OF_SCALE.findall(text):
            shown = render_scale(results / scale, present, main_only=path == front)
            pages[path] = replaced(pages[path], f"{MARK}:{scale}", shown)
    return pages | {readme: replaced(pages[readme], MARK, render_all(results, present))}


def main(argv: list[str] | None = None) -> int:
    console.speak()
    about = "Write the tables of README, docs/ and results/README.md from results/, in the repository's root."
    argparse.ArgumentParser(prog="python -m pirl_core.report.pages", description=about).parse_args(argv)
    try:
        for path, text in written(Path(), RESULTS, present_digest).items():
            if text != read_text(path, ELSEWHERE):
                write_text(path, text)
                print(path)
    except (UserError, OSError) as error:
        if (said := told(error)) is None:
            raise
        return console.refuse("pages", said)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

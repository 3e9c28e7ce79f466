"""The results in git: of code in the history, honest about what has changed since, and open to anybody's sums."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pirl_core.report.metrics import build_success
from pirl_core.report.older import present_digest
from pirl_core.report.pages import scales
from pirl_core.report.runs import is_edited
from pirl_core.report.tables import method_label
from tests import ROOT
from tests.report.made_up import recompute, told


def git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)


def records(committed: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(scale, record) of every run."""
    for scale in scales(committed):
        for record in json.loads((committed / scale / "run.json").read_text())["records"]:
            yield scale, record


def test_every_run_is_of_clean_code_in_the_history(committed: Path) -> None:
    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("no history")
    seen = set()
    for scale, record in records(committed):
        where = f"results/{scale}: {record['stage']}@{record['name']} ran at {record['revision']}"
        assert not is_edited(record), where
        if (revision := record["revision"]) not in seen:
            assert git("cat-file", "-e", f"{revision}^{{commit}}").returncode == 0, where
            assert git("merge-base", "--is-ancestor", revision, "HEAD").returncode == 0, where
        seen.add(revision)
    assert seen


def test_a_row_is_of_the_present_code_or_marked(committed: Path, root: Path) -> None:
    """In results/README.md."""
    page = (root / "results/README.md").read_text(encoding="utf-8")
    for scale in scales(committed):
        lines = page.split(f"\n## {scale}\n")[1].split("\n## ")[0].splitlines()
        runs = {(run["stage"], run["name"]): run.get("code") for where, run in records(committed) if where == scale}
        for row in json.loads((committed / scale / "metrics.json").read_text())["rows"]:
            own = f"{row['experiment']}-{row['method']}"
            names = [("curate", row["experiment"])]
            for seed in row["seeds"]:
                names += [("sft", f"{row['experiment']}-{seed}"), ("evaluate", f"{own}-{seed}")]
                names += [("rl", f"{own}-{seed}")] if row["method"] != "sft" else []
            codes = [(stage, runs.get((stage, name))) for stage, name in names]
            is_present = all(code and present_digest(stage, code["parts"]) == code["digest"] for stage, code in codes)
            label = method_label(row["method"])
            start = f"| {row['experiment']} | {row['model']} |"
            methods = [line.split(" | ")[3] for line in lines if line.startswith(start)]
            mine = {method for method in methods if method.removesuffix(" ‡") == label}
            assert mine == {label if is_present else f"{label} ‡"}, f"{scale}, {own}: run make results"


def test_intervals_come_from_the_episodes(committed: Path) -> None:
    for scale in scales(committed):
        for mine, theirs in zip(recompute(committed / scale), told(committed / scale), strict=True):
            assert mine.keys() == theirs.keys()
            for key, numbers in theirs.items():
                assert mine[key] == pytest.approx(numbers, abs=1e-6), (scale, key)
        metrics = json.loads((committed / scale / "metrics.json").read_text())
        assert json.loads((committed / scale / "success.json").read_text()) == build_success(metrics)

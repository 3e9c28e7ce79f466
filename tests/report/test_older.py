"""Rows of older code: which runs they are of, and where they are marked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pirl_core.params.sections import Params
from pirl_core.report.older import older_note, older_rows
from tests.report.made_up import DIGEST, PARTS, build, edit_record, fill, make_params, text_of

ALL = {(e, m) for e in ("tiny", "state") for m in ("sft", "flow_sde", "flow_noise")}
OTHER = {"digest": "0dd", "parts": PARTS}


@pytest.fixture
def params(tmp_path: Path) -> Params:
    params = make_params(tmp_path)
    fill(tmp_path / "outputs", params)
    return params


def gone(outputs: Path, stage: str, name: str) -> None:
    (outputs / "run" / stage / f"{name}.json").unlink()


def changed(outputs: Path, stage: str, name: str) -> None:
    edit_record(outputs, stage, name, code=OTHER)


def untold(outputs: Path, stage: str, name: str) -> None:
    edit_record(outputs, stage, name, code=None)


@pytest.mark.parametrize("edit", [changed, untold, gone])
@pytest.mark.parametrize(
    ("stage", "name", "rows"),
    [
        ("curate", "tiny", {("tiny", "sft"), ("tiny", "flow_sde"), ("tiny", "flow_noise")}),
        ("sft", "state-1", {("state", "sft"), ("state", "flow_sde"), ("state", "flow_noise")}),
        ("rl", "tiny-flow_sde-1", {("tiny", "flow_sde")}),
        ("evaluate", "tiny-sft-0", {("tiny", "sft")}),
    ],
)
def test_a_run_of_other_code_marks_what_came_of_it(
    edit: Callable[..., None], stage: str, name: str, rows: set[tuple[str, str]], tmp_path: Path, params: Params
) -> None:
    edit(tmp_path / "outputs", stage, name)
    metrics = build(tmp_path, params)
    runs = json.loads((tmp_path / "results/run.json").read_text())
    assert older_rows(metrics["rows"], runs["records"], lambda *_: DIGEST) == {row: [stage] for row in rows}
    page = text_of((tmp_path / "outputs/report/report.html").read_text())
    twin = (tmp_path / "results/report.md").read_text()
    note = f"‡ Of code that has changed since: {name.partition('-')[0]} ({stage})."
    assert note in page and note in twin
    assert ("1 left no record" in twin) == (edit is gone)
    for row in twin.split("## By group")[0].splitlines():
        cells = [cell.strip() for cell in row.split("|")]
        if cells[1:2] in (["tiny"], ["state"]):
            method = next(cell for cell in cells if cell.startswith(("SFT", "Flow-")))
            compared = "## RL − SFT" in twin.split(row)[0]
            named = method.removesuffix(" ‡").lower().replace("-", "_")
            older = {(cells[1], named)} & rows or (compared and (cells[1], "sft") in rows)
            assert method.endswith("‡") == bool(older), row


def test_the_present_code_is_asked_for_once_a_stage(tmp_path: Path, params: Params) -> None:
    asked: list[Any] = []

    def present(stage: str, parts: Any) -> str:
        asked.append((stage, parts))
        return "fe" if stage == "rl" else DIGEST

    metrics = build(tmp_path, params, present)
    assert sorted(stage for stage, _ in asked) == ["curate", "evaluate", "rl", "sft"]
    assert all(parts == PARTS for _, parts in asked)
    runs = json.loads((tmp_path / "results/run.json").read_text())
    older = older_rows(metrics["rows"], runs["records"], lambda *_: "fe")
    assert older.keys() == ALL and older["tiny", "sft"] == ["curate", "sft", "evaluate"]
    assert older_note(older).count("(curate, sft, rl, evaluate)") == 2
    assert older_rows(metrics["rows"], runs["records"], lambda *_: DIGEST) == {} and older_note({}) == ""
    assert "‡" not in build_text(tmp_path, params)


def build_text(folder: Path, params: Params) -> str:
    build(folder, params)
    return (folder / "results/report.md").read_text() + (folder / "outputs/report/report.html").read_text()

"""Papers as data: every number against a transcription, files read strictly, tables and figures filled from runs."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pirl_core.errors import UserError
from pirl_core.report import evidence
from pirl_core.report.evidence import read_evidence
from pirl_core.report.papers import cells, curves
from pirl_core.report.papers.__main__ import written
from pirl_core.report.papers.cells import table_cells
from pirl_core.report.papers.page import pictures, read_contents, render_html, render_markdown
from pirl_core.report.papers.schema import Papers, Table, read_item, read_papers

NUMBERS = Path(__file__).with_name("pi_rl_numbers.txt")
PRINTED = {name: read_papers().tables[f"pi_rl_table_{name:02}"] for name in range(1, 11)}
SUITES = ["Spatial", "Object", "Goal", "Long"]
# Of which columns an average is the unweighted mean, and of which column a gain is the difference to SFT.
AVERAGES = {
    1: {"Avg.": ["LIBERO", "ManiSkill", "MetaWorld", "CALVIN"]},
    3: {"Avg.": SUITES},
    4: {"OOD avg.": ["Vision", "Semantic", "Execution"]},
    6: {"Avg.": ["Easy", "Medium", "Hard", "Very hard"]},
    8: {"Avg.": ["Carrot", "Eggplant", "Spoon", "Cube"]},
    9: {"Avg.": SUITES},
    10: {"Avg.": SUITES},
}
GAINS = {
    1: {"Δ Avg.": "Avg."}, 3: {"Δ Avg.": "Avg."}, 4: {"Δ ID": "ID", "Δ OOD": "OOD avg."}, 5: {"Δ Avg.": "Avg."},
    6: {"Δ Avg.": "Avg."}, 9: {"Δ Avg.": "Avg."}, 10: {"Δ Avg.": "Avg."},
}  # fmt: skip
# What the paper prints otherwise than its own columns give: (table, row, column) -> (printed, of the columns).
AT_ODDS = {
    (3, "π0 SFT", "Avg."): (57.6, 57.675),
    (9, "π0 SFT", "Avg."): (57.6, 57.675),
    (8, "π0.5 Δ", "Avg."): (19.9, 19.825),  # the difference of the averages, 79.1 - 59.2
}
# Rows that one table repeats of another, by their blocks and labels: (table, of table, columns in common) -> at odds.
REPEATED = {
    (9, 3, ("Spatial", "Object", "Goal", "Long", "Avg.")): {("π0 +PPO", "Avg."): (96.0, 96.1)},
    (1, 3, ("Avg.",)): {},
    (1, 6, ("Avg.",)): {},
    (1, 4, ("ID",)): {},
    (1, 5, ("Len-5",)): {},
}
SAME_ROW = {"π0 +PPO": "π0 Flow-SDE", "π0.5 +PPO": "π0.5 Flow-SDE"}
OF_TABLE_1 = {3: "LIBERO", 6: "MetaWorld", 4: "ManiSkill", 5: "CALVIN"}
TABLE = """
kind: table
paper: P
name: Table 1
title: t
source: s
ran_on: r
columns:
  - {label: a, ask: {experiments: [ablation], method: sft}}
  - {label: b, ask: {experiments: [ablation], method: flow_sde, splits: [id], of: gain}}
rows:
  - {label: x, paper: [50.0, null]}
"""


def transcribed() -> dict[int, list[list[float | None]]]:
    found: dict[int, list[list[float | None]]] = {}
    for line in NUMBERS.read_text(encoding="utf-8").splitlines()[1:]:
        if line.startswith("Table "):
            rows = found.setdefault(int(line.split()[1]), [])
        else:
            rows.append([None if word == "–" else float(word) for word in line.split()])
    return found


@pytest.mark.parametrize("number", PRINTED)
def test_every_number_is_as_printed(number: int) -> None:
    assert [row.paper for row in PRINTED[number].rows] == transcribed()[number]


def figures_of(number: int) -> dict[tuple[str, str], float | None]:
    """(block and label of the row, label of the column) -> figure."""
    table = PRINTED[number]
    labels = [column.label for column in table.columns]
    rows = [(f"{row.block} {row.label}", row.paper) for row in table.rows]
    return {(row, label): figure for row, paper in rows for label, figure in zip(labels, paper, strict=True)}


def test_averages_are_those_of_the_columns_but_where_the_paper_errs() -> None:
    """To the rounding of what is printed; a gain is the difference of the printed averages."""
    odd = {}
    for number in PRINTED:
        figures = figures_of(number)
        for (row, label), shown in figures.items():
            if shown is not None and (of := AVERAGES.get(number, {}).get(label)):
                mean = float(np.mean([figures[row, part] or 0.0 for part in of]))
                if abs(shown - mean) > 0.0501:
                    odd[number, row, label] = (shown, round(mean, 3))
            if shown is not None and (average := GAINS.get(number, {}).get(label)):
                sft = figures[f"{row.split(' ')[0] if number != 10 else 'GR00T N1.5'} SFT", average]
                assert shown == pytest.approx((figures[row, average] or 0.0) - (sft or 0.0), abs=0.0501), (number, row)
    assert odd == AT_ODDS


def test_tables_repeat_each_other_but_where_the_paper_errs() -> None:
    for (number, other, labels), expected in REPEATED.items():
        mine, theirs = figures_of(number), figures_of(other)
        odd = {}
        for row in {row for row, _ in mine}:
            for label in labels:
                ours = mine[row, OF_TABLE_1[other] if number == 1 else label]
                if (there := theirs.get((SAME_ROW.get(row, row), label), ours)) != ours:
                    odd[row, label] = (ours, there)
        assert odd == expected, (number, other)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("title: t", "titel: t", "title"),
        ("kind: table", "kind: tabel", "kind"),
        ("paper: [50.0, null]", "paper: [50.0]", "paper of 'x' has 1 figures; there are 2 columns"),
        ("paper: [50.0, null]", "paper: ['50', null]", "rows.0.paper.0"),
        ("{label: b,", "{label: a,", "label 'a' is given twice"),
        ("{label: b, ask", "{label: b, mean_of: [c], ask", "mean_of = 'c' of 'b'; one of ['a']"),
        ("method: sft", "metod: sft", "columns.0.ask.metod"),
        (", method: sft", "", "'x' × 'a': no method"),
        ("of: gain", "of: gains", "columns.1.ask.of"),
        ("[ablation], method: sft", "{paper: [ablation]}, method: sft", "name those of paper and paper_small"),
        ("{label: x,", "{label: x, not_run: quoted, model: pi0,", "stands beside nothing"),
        ("{label: x,", "{label: x, not_run: quoted, ask: {method: sft},", "'x' has not_run; leave out its ask"),
        ("splits: [id]", "splits: [ood]", "columns.1.ask.splits.0"),
    ],
)
def test_a_mistake_in_a_file_is_told_in_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(TABLE)
    assert isinstance(read_item(path), Table)
    assert old in TABLE
    path.write_text(TABLE.replace(old, new))
    with pytest.raises(UserError) as caught:
        read_papers(tmp_path)
    said = str(caught.value)
    assert str(path) in said and words in said and "\n" not in said


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(TABLE)
    with pytest.raises(UserError, match=r"b\.yaml: name = 'Table 1': a\.yaml has that table already; rename one"):
        read_papers(tmp_path)


def plant(results: Path, runs: dict[tuple[str, str], float], seeds: int = 3, n: int = 20) -> None:
    """One part of paper_small on MetaWorld. runs: (experiment, method) -> the rate that its episodes have."""
    folder = results / "paper_small_part"
    folder.mkdir(parents=True)
    rows, points, records = [], [], []
    for experiment, method in runs:
        for seed in range(seeds):
            records.append({"stage": "evaluate", "name": f"{experiment}-{method}-{seed}", "wall_seconds": 60.0})
            records[-1] |= {"params": {"env": {"benchmark": "metaworld"}}, "machine": {"cpu": "C", "cores": 2}}
            for split in ("id", "id:exploring", "id:exploring_before") if method != "sft" else ("id",):
                for task in ("reach-v3", "hammer-v3"):
                    wins = round(n * runs[experiment, method])
                    rows += [
                        (experiment, method, seed, split, task, i, i < wins, 1.0 * (i < wins), 9) for i in range(n)
                    ]
            for metric in ("validation/success", "charts/success", "losses/clipfrac"):
                level = runs[experiment, method] + 0.01 * seed
                points += [
                    ("rl", experiment, method, seed, metric, step, level)
                    for step in range(0, 500, 5)
                    if method != "sft"
                ]
    columns = "experiment method seed split task env_seed success return steps"
    pd.DataFrame(rows, columns=columns.split()).to_parquet(folder / "episodes.parquet", index=False)
    columns = "stage experiment method seed metric step value"
    pd.DataFrame(points, columns=columns.split()).to_parquet(folder / "curves.parquet", index=False)
    (folder / "run.json").write_text(json.dumps({"records": records}))


RUNS = {
    ("ablation", "sft"): 0.4,
    ("ablation", "noise_low"): 0.5,
    ("ablation", "flow_sde"): 0.75,
    ("metaworld", "sft"): 0.2,
    ("metaworld", "flow_sde"): 0.6,
}


SHOWN = Papers(
    {name: table for name, table in read_papers().tables.items() if table.name in ("Table 2", "Table 6")},
    {name: figure for name, figure in read_papers().figures.items() if figure.name in ("Fig. 9", "Fig. 16")},
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By file name."""
    folder = tmp_path_factory.mktemp("planted")
    plant(folder / "results", RUNS)
    files = written(SHOWN, folder / "results", folder / "outputs", "paper_small")
    return {path.name: text for path, text in files.items()}


def section(markdown: str, name: str) -> str:
    return markdown.split(f"\n### {name}: ")[1].split("\n### ")[0].split("\n## ")[0]


def test_a_table_has_what_was_run_and_says_what_was_not(page: dict[str, str]) -> None:
    lines = [line.split(" | ") for line in section(page["paper.md"], "Table 2").splitlines() if line.startswith("|")]
    header, rows = lines[0], {(line[0].strip("| "), line[1]): line for line in lines[2:]}
    cell = {(*row, label): line[index] for row, line in rows.items() for index, label in enumerate(header) if index > 1}
    low = cell["RL", "eval", "noise 0.2 (small twin 0.5)"]
    assert re.fullmatch(r"\*\*50\.0\*\* [\d.]+ to [\d.]+<br>n 120, 3 seeds<br>paper 73\.1", low)
    # Of SFT, whatever the column's method.
    assert cell["SFT", "eval", "noise 0.2 (small twin 0.5)"].startswith("**40.0** ")
    assert cell["RL", "eval", "noise 0.8 (small twin 1.9)"] == "no run of ablation noise_high<br>paper 98.1"
    assert cell["RL", "train", "K = 1"] == "no run of ablation_k1 flow_sde<br>paper 73.8"
    wide = section(page["paper.md"], "Table 6")
    assert "**60.0** " in wide and "metaworld flow_sde has no task of group hard" in wide
    assert "**+40.0** " in wide and "+40.0 to" not in wide
    assert "| quoted | Diffusion Policy | quoted<br>paper 23.1 |" in wide


def test_a_figure_has_its_lines_in_the_papers_order_and_says_what_is_missing(page: dict[str, str]) -> None:
    svg = page["pi_rl_figure_09.svg"]
    assert svg.index(">0.2 (small twin 0.5)<") < svg.index(">0.5 (1.2)<") and ">0.8 (1.9)<" not in svg
    said = section(page["paper.md"], "Fig. 9")
    assert "(figures/pi_rl_figure_09.svg)" in said and "Not drawn: no run of ablation noise_high" in said
    assert "pi_rl_figure_16.svg" not in page  # no episode length was recorded
    assert "ablation flow_sde recorded no charts/episodic_length" in section(page["paper.md"], "Fig. 16")


def test_the_page_is_one_small_file_that_points_nowhere(page: dict[str, str]) -> None:
    html = page["paper_small.html"]
    pictures_of_all = sum(len(figure.panels) for figure in read_papers().figures.values())
    assert pictures_of_all * max(map(len, re.findall(r"<svg.*?</svg>", html, re.DOTALL))) < 4_000_000
    assert len(html.encode()) < 1_000_000
    assert not re.findall(r"https?://|<script|<link|@import|url\((?!#)", html)
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(re.findall(r'id="([^"]+)"', html))
    assert html.count("<h3") == 4


def test_a_mean_of_columns_is_that_of_its_cells(tmp_path: Path) -> None:
    plant(tmp_path / "results", RUNS, n=10)
    (tmp_path / "own.yaml").write_text(
        TABLE.replace("rows:", "  - {label: c, mean_of: [a, b]}\nrows:").replace("null]", "null, null]")
    )
    found = read_evidence(tmp_path / "results", "paper_small")
    [[a, b, c]] = table_cells(read_papers(tmp_path).tables["own"], found)
    assert a.answer and b.answer and c.answer
    assert c.answer[:3] == pytest.approx([(x + y) / 2 for x, y in zip(a.answer[:3], b.answer[:3], strict=True)])


def test_nothing_run_is_said_and_nothing_written(tmp_path: Path) -> None:
    assert written(SHOWN, tmp_path, tmp_path, "paper_small") == {}
    contents = read_contents(Papers({}, {}), read_evidence(tmp_path, "paper"), ([], []))
    assert pictures(contents) == {}
    for text in (render_markdown(contents), render_html(contents)):
        assert "Nothing of this twin has been run." in text


def test_every_cell_and_curve_at_the_papers_size_is_of_a_run_that_a_preset_names() -> None:
    papers = read_papers()
    runs = [run for table in papers.tables.values() for run in cells.runs_of(table, "paper")]
    runs += [run for figure in papers.figures.values() for run in curves.runs_of(figure, "paper")]
    assert len(set(runs)) > 80
    assert [run for run in dict.fromkeys(runs) if not evidence.listed_in("paper", *run)] == []

"""`make paper`: which parts a table needs, how long is left, and that a part's failure, or a kill, costs no other."""

from pathlib import Path

import pytest

from pirl_core.commands import paper
from pirl_core.commands.paper import Run, chosen_parts, remaining, run_parts
from pirl_core.errors import UserError
from pirl_core.params.preset import preset_text
from pirl_core.report.evidence import listed_by_seed, parts_of
from pirl_core.report.papers.cells import runs_of
from pirl_core.report.papers.schema import read_papers
from pirl_core.report.twins import TWINS

PAPERS = read_papers()


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("stem", PAPERS.tables)
def test_the_parts_of_a_table_bring_all_that_is_there_for_it(stem: str, twin: str) -> None:
    """With each training seed; and none of them could be spared."""
    runs = runs_of(PAPERS.tables[stem], twin)
    there = [set(having) for run in runs for having in listed_by_seed(twin, *run).values()]
    if not there:
        with pytest.raises(UserError, match=f"^no part of {twin} has a run of these yet"):
            chosen_parts(PAPERS, twin, [stem], [])
        return
    parts = chosen_parts(PAPERS, twin, [stem], [])
    assert all(having & set(parts) for having in there)
    for part in parts:
        assert any(not having & set(parts) - {part} for having in there)


def test_a_table_is_asked_for_by_its_number_or_its_file() -> None:
    assert chosen_parts(PAPERS, "paper", ["2"], ["7"]) == ["paper_goal", "paper_noise", "paper_steps"]
    assert chosen_parts(PAPERS, "paper", ["pi_rl_table_09"], []) == ["paper", "paper_grpo"]
    assert chosen_parts(PAPERS, "paper_small", [], []) == parts_of("paper_small")
    with pytest.raises(UserError, match=r"^table = '99': no such file; give a number of π_RL, or one of pi_rl_"):
        chosen_parts(PAPERS, "paper", ["99"], [])


def test_the_time_left_is_that_of_the_nearest_runs() -> None:
    took = {Run("a", "rl", "e-m-0"): 10.0, Run("a", "rl", "e-m-1"): 20.0, Run("a", "rl", "e-n-0"): 60.0}
    assert remaining([Run("a", "rl", "e-m-2")], took) == 15  # other seeds
    assert remaining([Run("a", "rl", "e-o-0")], took) == 30  # other methods
    assert remaining([Run("b", "rl", "f-m-0"), Run("a", "rl", "e-n-1")], took) == 30 + 60  # other parts
    assert remaining([Run("a", "sft", "e-0")], took) is None
    assert remaining([], {}) == 0


REPRO = """\
import sys
from pathlib import Path
scale = sys.argv[sys.argv.index("--scale") + 1]
Path("params.yaml").write_text(Path(scale + ".yaml").read_text())
Path("ran").open("a").write(scale + "\\n")
raise SystemExit({code})
"""


@pytest.mark.parametrize(
    ("code", "ran", "failed"),
    [
        (0, ["paper_goal", "paper_noise"], []),
        (255, ["paper_goal"], ["paper_goal"]),
        (1, ["paper_goal", "paper_noise"], ["paper_goal", "paper_noise"]),
        (2, ["paper_goal"], ["paper_goal"]),
    ],
)
def test_params_are_as_before_and_bad_input_ends_all(
    code: int, ran: list[str], failed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paper, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "pirl_core/commands").mkdir(parents=True)
    (tmp_path / "pirl_core/commands/repro.py").write_text(REPRO.format(code=code))
    for part in ("paper_goal", "paper_noise"):
        Path(f"{part}.yaml").write_text(preset_text(part))
    Path("params.yaml").write_text("mine: 1\n")
    assert run_parts(["paper_goal", "paper_noise"], overwrite=False) == (code, failed)
    assert Path("ran").read_text().split() == ran
    assert Path("params.yaml").read_text() == "mine: 1\n"

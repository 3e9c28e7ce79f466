"""The presets against the paper's tables as data: every number is equal, or stands with its reason in the docs."""

from tests.params.paper_tables import DATA, PAGE, of_paper, of_small, preset, written


def test_every_number_is_the_tables_or_has_a_reason() -> None:
    """And no reason is left where the number is equal."""
    cells = list(of_paper(preset("paper")))
    assert len(cells) > 500
    assert [cell for cell in cells if (cell.ours == cell.theirs) == bool(cell.because)] == []


def test_every_experiment_with_a_row_in_the_paper_is_compared() -> None:
    """But SmolVLA, a baseline of Table 6 that the paper did not train."""
    with_row = {name for name, entry in preset("paper").experiments.items() if entry.paper_model is not None}
    assert with_row - {cell.column for cell in of_paper(preset("paper"))} == {"metaworld_smolvla"}


def test_small_presets_differ_where_a_reason_is_given() -> None:
    """One reason a row; rows without one are equal in all of them."""
    assert {cell.row for cell in of_small() if cell.ours != cell.theirs} == set(DATA["small"]["because"])


def test_flow_noise_has_the_ratio_that_the_clip_range_is_for() -> None:
    assert preset("paper").methods["flow_noise"]["logprob_reduction"] == "official"


def test_the_page_has_the_tables() -> None:
    """`python -m tests.params.paper_tables` writes them."""
    page = PAGE.read_text(encoding="utf-8")
    assert written(page) == page

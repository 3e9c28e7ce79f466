"""The fuzz over every input in its short form; `python -m tests.fuzz.inputs` runs it in full."""

import pytest

from tests.fuzz.inputs import fuzz, told


@pytest.mark.slow
def test_spoiled_inputs_are_taken_or_refused_in_one_line() -> None:
    counts, wrong = fuzz(140, seed=1)
    assert not wrong, "\n\n".join([told(counts), *wrong])
    assert {kind for kind, _ in counts} >= {"params", "dataset", "policy", "evaluations", "images", "arguments"}
    assert sum(number for (_, verdict), number in counts.items() if verdict == "refused") > 50

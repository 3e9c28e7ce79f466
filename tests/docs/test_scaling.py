"""The forecast in docs/scaling.md is what the model says of the costs that the project has."""

import pytest

from pirl_core.report.pages import block
from pirl_core.report.scaling import picture
from tests.docs import scaling

REMEDY = "run python -m tests.docs.scaling"


def shown() -> str:
    return block(scaling.PAGE.read_text(encoding="utf-8"), scaling.MARK)


def test_the_first_row_is_up_to_date() -> None:
    row = scaling.render(scaling.foretold(gpus=(8,))).splitlines()
    assert row == shown().splitlines()[:3], REMEDY


@pytest.mark.slow
def test_the_forecast_and_its_picture_are_up_to_date() -> None:
    found = scaling.foretold()
    assert shown() == scaling.render(found), REMEDY
    assert scaling.PICTURE.read_text(encoding="utf-8") == picture(found), REMEDY

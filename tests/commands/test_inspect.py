"""``pirl inspect``: it tells what is in a dataset, what curate will say, and what is damaged."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from pirl_core.commands.cli import main
from pirl_core.data.inspection import BINS, inspect
from pirl_core.params.preset import preset_values
from tests.data.odd_dataset import plain
from tests.data.test_shared_files import WRITTEN
from tests.data.with_lerobot import LENGTHS, SENTENCES, episodes


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a dataset and two experiments: one that fits it, one that does not."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(WRITTEN / "videos", "mine")
    params = preset_values("smoke")
    first = next(iter(params["experiments"].values()))
    env = {"benchmark": "libero", "tasks": ["libero_goal_7"], "cameras": ["agentview"]}
    splits = {"id": {"tasks": None, "shift": "none", "episodes_per_task": 1}}
    curate = {"dataset": "mine", "episodes_per_task": 9}
    changes = {"paper_model": None, "env": env, "evaluate": {"splits": splits}, "curate": curate}
    params["experiments"] = {"scripted": first, "fits": {**first, **changes}}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def test_numbers_are_those_of_the_dataset() -> None:
    for kind in ("images", "videos"):
        seen = inspect(str(WRITTEN / kind), None, 99)
        assert (seen.lengths, seen.tasks) == ([*LENGTHS], dict.fromkeys(SENTENCES, 2))
        whole = np.concatenate([np.concatenate([raw.state, raw.action], 1) for raw in episodes()])
        assert [number.name for number in seen.numbers] == [*(f"state s{n}" for n in range(8)),
                                                            *(f"action a{n}" for n in range(7))]  # fmt: skip
        for number, column in zip(seen.numbers, whole.T, strict=True):
            assert number.quantiles == pytest.approx(np.quantile(column, [0, 0.01, 0.5, 0.99, 1]))
            assert np.array_equal(number.counts, np.histogram(column, BINS)[0])
        assert {(picture.episode, picture.frame) for picture in seen.pictures} == {(0, 0), (0, 3), (0, 6), (1, 0)}
        for picture in seen.pictures:
            wanted = episodes()[picture.episode].pictures[picture.frame, int(picture.column.endswith("2"))]
            assert np.abs(picture.pixels.mean((0, 1)) - wanted.mean((0, 1))).max() < 4
        assert seen.faults == []
    some = inspect(str(WRITTEN / "images"), None, 2)
    assert some.looked == 2 and {picture.episode for picture in some.pictures} == {0, 3}


def test_text_and_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "mine"]) == 0
    said = capsys.readouterr().out
    assert "4 episodes of 2 tasks; 22 frames, 1 to 9 an episode" in said
    assert "\nfits: keeps 2 of 2 episodes of its tasks\n" in said
    assert "\nfits: fewer demonstrations than curate.episodes_per_task = 9: 2 of libero_goal_7\n" in said
    assert "scripted:" not in said  # it does not name the dataset
    page = Path("outputs/inspect/mine.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == 8 and page.count("<svg") == 15
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert main(["inspect", "mine", "--experiment", "scripted"]) == 0
    assert re.search(
        r"\nscripted: refused: .* mine has no column 'observation.image'; .*corner2\n", capsys.readouterr().out
    )


def test_damage_is_told_and_the_rest_is_shown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("mine/videos/observation.images.image")
    (here / "mine/data/chunk-000/file-001.parquet").write_bytes(b"PAR1")
    assert main(["inspect", "mine"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"\ndamaged: curate.dataset: mine/videos/\S+file-000.mp4 cannot be used", said)
    assert re.search(r"\ndamaged: mine/data/chunk-000/file-001.parquet: damaged parquet", said)
    assert re.search(r"\nfits: keeps 2 of 2 .*\n", said) and "Numbers of 3 episodes" in said


def test_of_version_two_and_what_is_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain().write(Path("odd"))
    assert main(["inspect", "odd", "--experiment", "fits", "--page", "elsewhere/x.html"]) == 0
    assert "LeRobot v2.1" in capsys.readouterr().out and Path("elsewhere/x.html").is_file()
    for words, told in ((["mi-ne"], "mi-ne is no folder"), (["mine", "--experiment", "fit"], "did you mean 'fits'"),
                        (["mine", "--episodes", "0"], "--episodes 0")):  # fmt: skip
        assert main(["inspect", *words]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1

"""``pirl init``: what an installed package needs of a folder, and nothing of somebody else's is touched."""

import subprocess
from pathlib import Path

import pytest
import yaml

from pirl_core.commands import cli
from pirl_core.commands.init import FILES, WORKSPACE
from pirl_core.params.preset import preset_text
from tests import ROOT


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_folder_gets_the_pipeline_and_its_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The repository's own dvc.yaml, in which DVC finds the stages; doing it again changes nothing."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "smoke"]) == 0
    assert "params.yaml: scale smoke; experiments metaworld" in capfd.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "params.yaml", ".dvc"}
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes() and not (tmp_path / name).is_symlink()
    assert (tmp_path / "params.yaml").read_text() == preset_text("smoke")
    listed = subprocess.run(["dvc", "stage", "list", "--name-only"], capture_output=True, text=True, check=True)
    assert "rl@metaworld-flow_sde-0" in listed.stdout.split()
    for words in (["help"], ["-n", "stage", "STAGE=sft@metaworld-0"], ["-n", "reproduce", "SCALE=smoke"]):
        said = subprocess.run(["make", *words], capture_output=True, text=True, check=True).stdout
        assert words == ["help"] or "python -m pirl_core.commands.repro" in said
    before = files(tmp_path)
    assert cli.main(["init"]) == 0 and files(tmp_path) == before


def test_what_is_there_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is anything written beside it."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("Makefile", "all:\n"), ("params.yaml", "seeds: [0]\n")):
        (tmp_path / name).write_text(text)
        assert cli.main(["init", "smoke"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("pirl: init: ") and name in said and said.count("\n") == 1
        assert files(tmp_path) == {name: text.encode()}
        (tmp_path / name).unlink()


def test_the_wheel_has_them() -> None:
    """As setuptools finds them: by the patterns of package-data."""
    import tomllib

    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    found = {path.name for pattern in patterns for path in WORKSPACE.parent.glob(pattern)}
    assert set(FILES.values()) <= found
    assert yaml.safe_load((WORKSPACE / "pipeline.yaml").read_text()) == yaml.safe_load((ROOT / "dvc.yaml").read_text())

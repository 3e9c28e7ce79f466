"""What a flow finds from the folder apart in which it tries values: packages and folders that lie in the root."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prefect")

from flows.workspace import check, next_commands, open_workspace
from flows.workspace import environment as variables_of
from pirl_core.commands.inputs import lacking
from pirl_core.commands.status import RUNS
from pirl_core.params.file import load_params
from tests.flows.test_flows import dvc
from tests.flows.workspace import PYTHON, environment, make_workspace
from tests.stages.test_pipeline import begun
from tests.test_named import PACKAGE

FULL = {"size": "full", "tokenizer": "./words/of_mine", "pretrained": "weights"}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_workspace(tmp_path / "root")


def overrides(**sections: dict[str, Any]) -> dict[str, Any]:
    """Of experiment b."""
    return {f"experiments.b.{section}": values for section, values in sections.items()}


def test_a_package_in_the_root_is_found_after_the_folders_own(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / "own_lab").mkdir()
    (workspace / "own_lab/__init__.py").touch()
    (workspace / "own_lab/wide.py").write_text(PACKAGE["wide.py"])
    monkeypatch.syspath_prepend(workspace)  # as `python -m flows.run` has the folder in which it is called
    wish = check(workspace, None, {"methods.flow_sde.noise_rule": "own_lab.wide"}, None)
    folder = open_workspace(wish)
    code = "import pirl_core.params.file as file; file.load_params(); print(file.__file__)"
    for given, said in (("", "no module own_lab.wide can be imported"), ("", ""), ("/elsewhere", "")):
        own = {**environment(workspace), "PYTHONPATH": given}
        used = own if said else variables_of(wish, folder, own)
        done = subprocess.run([PYTHON, "-c", code], cwd=folder, env=used, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == (not said) and said in done.stderr, done.stderr
        assert said or done.stdout.strip() == str(folder / "pirl_core/params/file.py")
        assert said or used["PYTHONPATH"].split(":") == [str(folder), str(workspace), *filter(None, [given])]
    same = check(workspace, None, None, None)
    assert variables_of(same, workspace, {"A": "b"}) == {"A": "b"}


def test_folders_that_the_parameters_name_are_found(workspace: Path) -> None:
    for name in ("data/mine", "words/of_mine", "weights"):
        (workspace / name).mkdir(parents=True)
        (workspace / name / "kept").touch()
    wish = check(workspace, None, overrides(curate={"dataset": "data/mine"}, policy=FULL), None)
    folder = open_workspace(wish)
    params = load_params(folder / "params.yaml")
    assert lacking(params, folder, ["curate@b", "sft@b-0"]) == {}
    links = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink()}
    assert links == {"data/mine", "words/of_mine", "weights"}
    assert (folder / "data/mine").samefile(workspace / "data/mine")
    # DVC takes it as it takes the root's, and what a link leads to stays as it is.
    ran = dvc(workspace, "repro", "sft@b-0", within=str(folder))
    assert len(begun(ran)) == 2
    assert begun(dvc(workspace, "repro", "sft@b-0", within=str(folder))) == []
    # A folder that stands there is left alone, a link that leads nowhere any more is made anew.
    (folder / "weights").unlink()
    (folder / "weights").mkdir()
    (folder / "data/mine").unlink()
    (folder / "data/mine").symlink_to(workspace / "gone")
    assert open_workspace(wish) == folder
    assert not (folder / "weights").is_symlink() and (folder / "data/mine/kept").exists()
    assert all((workspace / name / "kept").exists() for name in links)


def test_a_file_that_the_parameters_name_is_found(workspace: Path) -> None:
    (workspace / "data").mkdir()
    (workspace / "data/steps.npz").touch()
    folder = open_workspace(check(workspace, None, overrides(curate={"dataset": "data/steps.npz"}), None))
    assert (folder / "data/steps.npz").samefile(workspace / "data/steps.npz")


@pytest.mark.parametrize(
    "name", ["outputs/policy/a-sft-0", "outputs", "outputs/curate", "results", ".pirl/x", ".", "../beside", "a/../../x"]
)
def test_nothing_is_linked_where_stages_write_nor_outside(name: str, workspace: Path) -> None:
    (workspace / name).mkdir(parents=True, exist_ok=True)
    folder = open_workspace(check(workspace, None, overrides(curate={"dataset": name}), None))
    assert [path for path in (workspace / RUNS).rglob("*") if path.is_symlink()] == []
    assert not (folder / "outputs").exists()
    # What stages do not write is another matter.
    (workspace / "outputs/mine").mkdir(parents=True, exist_ok=True)
    folder = open_workspace(check(workspace, None, overrides(curate={"dataset": "outputs/mine"}), None))
    assert (folder / "outputs/mine").is_symlink() and not (folder / "outputs").is_symlink()


def test_the_command_that_compares_is_one_that_works(workspace: Path) -> None:
    wish = check(workspace, None, {"report.title": "Another"}, None)
    folder = open_workspace(wish)

    def made(place: Path, *names: str) -> None:
        for name in names:
            (place / "outputs/evaluate" / name).mkdir(parents=True)
            (place / "outputs/evaluate" / name / "episodes.parquet").touch()

    made(folder, "a-sft-0", "b-sft-0", "b-flow_sde-0")
    made(workspace, "a-flow_sde-0")
    assert next_commands(wish, folder) == "`pirl runs`"
    made(workspace, "b-flow_sde-0", "b-sft-0")
    assert next_commands(wish, folder).startswith(f"`pirl compare b-flow_sde {folder.name}:b-flow_sde`, or `pirl runs`")

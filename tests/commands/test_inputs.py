"""Data, weights and assets that are not there are told before anything runs, and by name."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo
from networkx import ancestors

from pirl_core.commands.inputs import lacking, with_needs
from pirl_core.commands.targets import evaluations, stage_names
from pirl_core.facts import facts_of
from pirl_core.params.file import load_params
from tests.flows.workspace import PYTHON, environment, make_workspace

FULL = {"size": "full", "tokenizer": "google/paligemma-3b-pt-224"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_workspace(tmp_path)


def override(folder: Path, **sections: dict[str, Any]) -> None:
    """Of experiment b."""
    content = yaml.safe_load((folder / "params.yaml").read_text())
    content["experiments"]["b"] |= sections
    (folder / "params.yaml").write_text(yaml.safe_dump(content))


def wrong(folder: Path) -> dict[str, str]:
    params = load_params(folder / "params.yaml")
    return lacking(params, folder, stage_names(params))


def test_what_a_stage_needs_is_what_dvc_says(folder: Path) -> None:
    params = load_params(folder / "params.yaml")
    with Repo(str(folder)) as repo:
        graph = repo.index.graph.reverse()
        for stage in graph:
            needed = {stage.addressing, *(each.addressing for each in ancestors(graph, stage))}
            assert {*with_needs(params, [stage.name])} | {"sources"} == {each.rpartition(":")[2] for each in needed}


@pytest.mark.parametrize(
    ("sections", "stage", "said"),
    [
        (
            {"curate": {"dataset": "/absent/data"}},
            "curate@b",
            r"curate\.dataset = /absent/data: no such folder, and no",
        ),
        (
            {"curate": {"dataset": "no id"}},
            "curate@b",
            r"curate\.dataset = no id: no such folder, and no hub id of the",
        ),
        ({"policy": FULL | {"pretrained": "./absent"}}, "sft@b-0", r"policy\.pretrained = \./absent: no such folder"),
        ({"policy": FULL | {"tokenizer": "/absent"}}, "sft@b-0", r"policy\.tokenizer = /absent: no such folder"),
        ({"policy": FULL | {"pretrained": "params.yaml"}}, "sft@b-0", r"policy\.pretrained = params\.yaml: a file"),
        ({"curate": {"dataset": "owner/name"}, "policy": FULL | {"pretrained": "lerobot/pi0"}}, "", ""),
        ({"curate": {"dataset": "pirl_core"}}, "", ""),
        ({"curate": {"dataset": "./params.yaml"}}, "", ""),
    ],
)
def test_a_source_that_is_not_there(
    sections: dict[str, Any], stage: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hub id the form alone is known; a folder or file is looked for where the stages run."""
    monkeypatch.chdir("/")
    override(folder, **sections)
    found = wrong(folder)
    assert list(found) == ([stage] if stage else [])
    assert not stage or re.match(f"experiment b: {said}", found[stage]), found


def test_without_a_benchmark_there_is_sft_alone(folder: Path) -> None:
    (folder / "data").mkdir()
    override(folder, env={"benchmark": None, "tasks": ["all"], "cameras": []}, curate={"dataset": "data"})
    found = wrong(folder)
    assert set(found) == {"rl@b-flow_sde-0", "evaluate@b-sft-0", "evaluate@b-flow_sde-0"}
    assert all(said.startswith("experiment b: env.benchmark = null: there is no simulator") for said in found.values())
    params = load_params(folder / "params.yaml")
    assert evaluations(params, "b") == ["sft@b-0"]
    assert evaluations(params, "a") == ["evaluate@a-sft-0", "evaluate@a-flow_sde-0"]


def test_assets_in_a_folder_of_ones_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIRL_LIBERO_ASSETS", raising=False)
    facts = facts_of("libero")
    env = {"benchmark": "libero", "tasks": [next(iter(facts.tasks))], "cameras": [facts.cameras[0]]}
    override(folder, env=env, evaluate={"splits": {"id": {"tasks": None, "shift": "none", "episodes_per_task": 1}}})
    assert wrong(folder) == {}  # they are downloaded
    monkeypatch.setenv("PIRL_LIBERO_ASSETS", str(folder))
    found = wrong(folder)
    assert {name.partition("@")[0] for name in found} == {"curate", "rl", "evaluate"}
    assert all("PIRL_LIBERO_ASSETS=" in said and "lacks" in said and "b" in name for name, said in found.items())


@pytest.fixture
def repro(folder: Path) -> Callable[..., tuple[int, str]]:
    def call(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [PYTHON, "-m", "pirl_core.commands.repro", *words],
            cwd=folder, env=environment(folder), stdout=-1, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout

    return call


def test_nothing_runs_for_a_dataset_that_is_not_there(folder: Path, repro: Callable[..., tuple[int, str]]) -> None:
    data = folder / "data"
    data.mkdir()
    override(folder, curate={"dataset": "./data"})
    assert repro("sft@b-0")[0] == 0
    os.rename(data, folder / "moved")
    # Another experiment needs it not, nor does a stage alone that only reads what was made of it.
    assert repro("curate@a")[0] == 0
    code, printed = repro("--force", "--single-item", "sft@b-0")
    assert code == 0, printed
    for words in ((), ("sft@b-0",), ("curate@b", "--single-item")):
        code, printed = repro(*words)
        assert code == 2
        assert re.fullmatch(r"pirl: repro: experiment b: curate\.dataset = \./data: no such folder[^\n]*\n", printed)

"""What the first stage finds of params.yaml's folders and hub repositories, and that it is held to."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from pirl_core.errors import UserError
from pirl_core.params.file import load_params, resolve
from pirl_core.params.preset import preset_values
from pirl_core.stages.job import look, read_job
from pirl_core.stages.sources import NO_FOLDER, main, path_of, pinned, read_source, source_of
from tests.checkpoints.fake_hub import REPO, Hub, serve

CURATE = path_of("curate", "metaworld")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write()
    return tmp_path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    made.commit({"meta/info.json": b"1"})
    with serve(made):
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield made


def write(**curate: Any) -> None:
    params = preset_values("smoke")
    params["curate"] |= curate
    Path("params.yaml").write_text(yaml.safe_dump(params))


def found(key: str) -> str:
    """What the file says after the stage ran."""
    assert main([]) == 0
    return dict(line.split(" = ") for line in CURATE.read_text().splitlines() if " = " in line)[key]


def test_the_first_commit_that_was_found_is_kept(here: Path, hub: Hub) -> None:
    """By main and by a run of the stage; another branch or commit is another question."""
    write(dataset=REPO)
    first = hub.head[0]
    key = f"curate.dataset {REPO}@main"
    assert found(key) == first
    hub.commit({"meta/info.json": b"2"})
    assert found(key) == first
    args = argparse.Namespace(params=Path("params.yaml"), experiment="metaworld")
    assert read_job("curate", args).run.curate.dataset_revision == first
    write(dataset=REPO, dataset_revision=hub.head[0])
    assert found(f"curate.dataset {REPO}@{hub.head[0]}") == hub.head[0]
    CURATE.unlink()
    write(dataset=REPO)
    assert found(key) == hub.head[0]


def test_a_hub_that_does_not_answer_is_asked_again_at_the_next_run(here: Path, hub: Hub) -> None:
    write(dataset=REPO)
    hub.refuse = REPO
    key = f"curate.dataset {REPO}@main"
    assert found(key) == "unknown"
    hub.refuse = ""
    # A stage that has begun is held to what DVC looked at.
    run = resolve(load_params(), "metaworld")
    source = look("curate", [run], "metaworld")
    assert source.inputs == {key: "unknown"} and pinned(run, source) == run
    assert found(key) == hub.head[0]


def test_files_are_written_only_where_they_change(here: Path) -> None:
    assert main([]) == 0
    before = {path: path.stat().st_ino for path in Path("outputs/sources").rglob("*") if path.is_file()}
    assert len(before) == 8
    assert main([]) == 0
    assert before == {path: path.stat().st_ino for path in before}
    params = preset_values("smoke")
    del params["methods"]["flow_noise"]
    params["policies"] = ["flow_sde"]
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert main([]) == 0
    for stage in ("rl", "evaluate"):
        assert {path.name for path in (Path("outputs/sources") / stage).iterdir()} == {"metaworld-flow_sde"}


def test_a_folder_or_file_is_linked_for_dvc_to_look_at(here: Path) -> None:
    link = Path("outputs/datasets/metaworld")
    (here / "theirs").mkdir()
    (here / "theirs/file").write_text("x")
    (here / "it.npz").write_text("y")
    for dataset, leads in (
        (None, None), ("theirs", "theirs"), (str(here / "theirs"), "theirs"), (REPO, None), ("it.npz", "it.npz"),
    ):  # fmt: skip
        write(dataset=dataset, dataset_revision="0" * 40 if dataset == REPO else None)
        for _ in range(2):
            assert main([]) == 0
            assert link.is_symlink() == (leads is not None)
            assert link.resolve() == here / leads if leads else link.read_text() == NO_FOLDER
    write(dataset="theirs")
    assert main([]) == 0
    Path("theirs").rename("gone")
    assert main([]) == 0 and link.read_text() == NO_FOLDER
    params = preset_values("smoke")
    params["experiments"] = {"other": params["experiments"]["metaworld"]}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert main([]) == 0
    assert [path.name for path in link.parent.iterdir()] == ["other"] and (here / "gone/file").is_file()


def test_a_noise_rule_counts_for_whom_explores_with_it(here: Path) -> None:
    """In an evaluation, of its own method alone."""
    params = preset_values("smoke")
    for exploring in (0, 1):
        params["evaluate"]["exploring_episodes_per_task"] = exploring
        Path("params.yaml").write_text(yaml.safe_dump(params))
        assert main([]) == 0
        for policy, rule in (("sft", ""), ("flow_sde", "flow_sde"), ("flow_noise", "learned")):
            text = read_source(path_of("evaluate", "metaworld", policy))
            counted = set(re.findall(r"flow/rules/(?!__)(\w+)\.py", text))
            assert counted == ({rule} if exploring and rule else set())


def test_a_stage_that_dvc_runs_finds_the_code_as_dvc_did(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [resolve(load_params(), "metaworld")]
    look("curate", runs, "metaworld")  # by hand there is nothing to compare with
    monkeypatch.setenv("DVC_STAGE", "curate@metaworld")
    assert main([]) == 0
    assert look("curate", runs, "metaworld").text == read_source(CURATE)
    CURATE.write_text(CURATE.read_text().replace("pirl_core/data/curate.py ", "pirl_core/data/curate.py 0"))
    with pytest.raises(UserError, match=r"^pirl_core/data/curate\.py has changed since this run of the pipeline began"):
        look("curate", runs, "metaworld")


def test_pins_of_downloaded_assets_count(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pirl_core.envs import assets

    run = resolve(load_params(), "metaworld")
    assert source_of("rl", [run], "").inputs == {}
    values = preset_values("libero")
    Path("params.yaml").write_text(yaml.safe_dump(values))
    run = resolve(load_params(), "libero")
    first = source_of("rl", [run], "").inputs
    monkeypatch.setitem(assets.ASSETS, "libero", assets.ASSETS["libero"]._replace(parts=()))
    assert source_of("rl", [run], "").inputs.keys() == first.keys() == {"assets"}
    assert source_of("rl", [run], "").inputs != first
    assert source_of("sft", [run], "").inputs == {}

"""Broken inputs through the command line of every stage: one line, exit code 2, nothing written, nothing begun.

The tables of what can be broken are those of the modules' own tests, and more that only a whole stage meets.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pirl_core.data.lerobot import write_dataset
from pirl_core.envs.metaworld.facts import FACTS
from pirl_core.envs.vector import slots as vector
from pirl_core.params.preset import preset_values
from pirl_core.policy.folder import save_policy
from pirl_core.serving.policy import unnamed
from pirl_core.stages import curate, evaluate, report, rl, sft
from pirl_core.stages.cli import report_main, stage_main
from pirl_core.stages.job import NEEDS
from tests.data.test_data import BROKEN as DATASETS
from tests.data.test_data import edit_json, make_episode
from tests.params.test_params import BROKEN as PARAMETERS
from tests.params.test_params import UNREADABLE
from tests.policy.test_policy import BROKEN as POLICIES
from tests.report.made_up import fill, make_params
from tests.report.test_report import BREAKS
from tests.worlds import small_policy

RUN: dict[str, Callable[[Any], None]] = {"curate": curate.run, "sft": sft.run, "rl": rl.run, "evaluate": evaluate.run}
ARGUMENTS = {"experiment": "metaworld", "method": "flow_sde", "seed": "0"}
CAMERAS = ["corner2", "gripperPOV"]
DATASET, POLICY = "outputs/curate/metaworld", "outputs/policy/metaworld-sft-0"
SIZES: dict[str, Any] = {
    "cameras": 2, "horizon": 4, "replan": 2, "vlm_width": 16, "vlm_layers": 1, "expert_width": 16, "state_dim": 39,
    "action_dim": 4, "text_length": 16,
}  # fmt: skip
Edit = Callable[[Path], object]


class Started(Exception):  # noqa: N818 - no error of the stage
    """The stage found its inputs good and went on to start simulators."""


def write_policy(folder: Path, **sizes: Any) -> None:
    """With names for what it reads and moves, as stage sft gives them."""
    policy = small_policy(**sizes)
    policy.interface = unnamed(policy)
    save_policy(policy, folder)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good surroundings: parameters, a dataset, the policies before and after RL, an earlier result of each stage."""
    here = tmp_path_factory.mktemp("template")
    content = preset_values("smoke")
    content["env"].update(cameras=CAMERAS, object_state=True)
    content["sft"].update(steps=1, batch_size=2)
    (here / "params.yaml").write_text(yaml.safe_dump(content))
    rng = np.random.default_rng(0)
    (here / DATASET).mkdir(parents=True)
    # The lengths of test_data's own dataset, whose table of damages names frames.
    demos = [make_episode(rng, task, length) for task, length in ((1, 7), (0, 1), (1, 12), (0, 5))]
    write_dataset(here / DATASET, demos, CAMERAS, FACTS)
    for name in (POLICY, POLICY.replace("sft", "flow_sde")):
        (here / name).mkdir(parents=True)
        write_policy(here / name, **SIZES)
    for earlier in ("evaluate/metaworld-flow_sde-0", "rl/metaworld-flow_sde-0", "sft/metaworld-0", "report"):
        (here / "outputs" / earlier).mkdir(parents=True)
        (here / "outputs" / earlier / "earlier").write_text(earlier)
    (here / "results/smoke").mkdir(parents=True)
    (here / "results/smoke/metrics.json").write_text("{}")
    return here


@pytest.fixture
def here(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work and break things in."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in ("PIRL_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    return tmp_path


@pytest.fixture
def no_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        raise Started

    monkeypatch.setattr(vector, "VectorEnv", start)
    monkeypatch.setattr("pirl_core.data.curate.demonstrations", start)


def tree() -> dict[str, str]:
    """Every file and folder under outputs/ and results/, hidden ones too, with the hash of its content."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for top in ("outputs", "results")
        for path in Path(top).rglob("*")
    }


def call(stage: str, **changes: str) -> int:
    if stage == "report":
        return report_main(report.run, [])
    given = ARGUMENTS | changes
    argv = [text for option in NEEDS[stage] for text in (f"--{option}", given[option])]
    return stage_main(stage, RUN[stage], argv)


def refused(stage: str, words: str, capfd: pytest.CaptureFixture[str], **changes: str) -> None:
    """The stage says ``words`` in its one line, and all is as before."""
    before = tree()
    capfd.readouterr()
    code = call(stage, **changes)
    out, err = capfd.readouterr()
    assert (code, out) == (2, ""), err
    assert re.fullmatch(rf"pirl: {stage}: [^\n]+\n", err), err
    assert words in err
    assert tree() == before


@pytest.mark.parametrize("case", PARAMETERS)
@pytest.mark.usefixtures("no_simulator")
def test_parameters(case: str, here: Path, preset: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every stage in turn meets every kind of damage."""
    edit, _ = PARAMETERS[case]
    content = yaml.safe_load(preset.read_text())
    edit(content)
    (here / "params.yaml").write_text(yaml.safe_dump(content))
    stage = [*RUN, "report"][list(PARAMETERS).index(case) % 5]
    refused(stage, "params.yaml", capfd)


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_parameters(case: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "params.yaml").write_bytes(UNREADABLE[case][0])
    refused([*RUN, "report"][list(UNREADABLE).index(case) % 5], "params.yaml", capfd)


@pytest.mark.parametrize(
    ("stage", "changes", "words"),
    [
        ("curate", {"experiment": "metaword"}, "did you mean 'metaworld'?"),
        ("sft", {"seed": "1"}, "--seed 1 is not in 'seeds' [0]"),
        ("rl", {"method": "sft"}, "--method: unknown name 'sft'"),
        ("evaluate", {"method": "flow-sde"}, "did you mean 'flow_sde'?"),
    ],
)
@pytest.mark.usefixtures("here", "no_simulator")
def test_names(stage: str, changes: dict[str, str], words: str, capfd: pytest.CaptureFixture[str]) -> None:
    refused(stage, words, capfd, **changes)


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [("sft", "PIRL_THREADS", "0"), ("report", "PIRL_THREADS", "many"), ("rl", "PIRL_WORKERS", "-1")],
)
@pytest.mark.usefixtures("here")
def test_variables(
    stage: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    refused(stage, name, capfd)


@pytest.mark.usefixtures("no_simulator")
def test_an_episode_that_was_never_recorded(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = yaml.safe_load((here / "params.yaml").read_text())
    content["curate"]["keep_episodes"] = [0, 99]
    (here / "params.yaml").write_text(yaml.safe_dump(content))
    refused("curate", "curate.keep_episodes: no episode 99; there are 0 to 3", capfd)


def other_dataset(size: int = 32, actions: int = 4) -> Edit:
    """A good dataset that was recorded for something else."""

    def edit(folder: Path) -> None:
        episode = make_episode(np.random.default_rng(0), 0, 5, size=size)
        shutil.rmtree(folder)
        folder.mkdir()
        write_dataset(folder, [episode], CAMERAS, FACTS)
        if actions != 4:
            widen(folder, actions)

    return edit


def widen(folder: Path, actions: int) -> None:
    """Give the recorded actions another length, in the table and in what describes it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    values = pa.array([[0.5] * actions] * len(table), pa.list_(pa.float32(), actions))
    widened = table.set_column(table.schema.get_field_index("action"), "action", values)
    # As the writer leaves it.
    pq.write_table(widened, path, compression="none", use_dictionary=False)
    edit_json("meta/info.json", lambda info: info["features"]["action"].update(shape=[actions]))(folder)


OTHER_DATASETS: dict[str, tuple[Edit, str]] = {
    "folder absent": (shutil.rmtree, "is not there yet; run make stage STAGE=curate@metaworld first"),
    "a folder without files": (lambda f: shutil.rmtree(f / "meta"), "meta/info.json: missing"),
    "images of another size": (other_dataset(size=48), "image_size"),
    "actions of another robot": (other_dataset(actions=7), "action"),
    "null state": (edit_json("meta/info.json", lambda i: i["features"].pop("observation.state")), "observation.state"),
    "features no mapping": (edit_json("meta/info.json", lambda i: i.update(features=[])), "'features' is missing"),
    "a feature no mapping": (edit_json("meta/info.json", lambda i: i["features"].update(action="f32")), "action"),
    "a shape of words": (edit_json("meta/info.json", lambda i: i["features"]["action"].update(shape="4")), "action"),
    "tasks damaged": (lambda f: (f / "meta/tasks.parquet").write_bytes(b"PAR1"), "tasks.parquet: damaged parquet"),
}


@pytest.mark.parametrize("case", DATASETS | OTHER_DATASETS)
def test_datasets(case: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damage, words = (DATASETS | OTHER_DATASETS)[case]
    damage(here / DATASET)
    refused("sft", words, capfd)


def test_a_good_dataset_is_taken(here: Path) -> None:
    """So the datasets above are refused for what was broken. Another run of the stage replaces the whole folder."""
    assert call("sft") == 0
    assert not (here / "outputs/sft/metaworld-0/earlier").exists()
    assert not list(here.rglob("*.partial"))


def set_config(**changes: Any) -> Edit:
    return edit_json("config.json", lambda c: c.update(changes))


def set_shape(**changes: Any) -> Edit:
    return edit_json("config.json", lambda c: c["shape"].update(changes))


def set_numbers(kind: str, **changes: Any) -> Edit:
    return edit_json("normalization.json", lambda c: c[kind].update(changes))


def other_policy(**sizes: Any) -> Edit:
    """A good policy that was trained for another ``env``."""
    return lambda folder: write_policy(folder, **(SIZES | sizes))


OTHER_POLICIES: dict[str, tuple[Edit, str]] = {
    "no folder": (shutil.rmtree, "is not there yet; run make stage STAGE=rl@metaworld-flow_sde-0 first"),
    "a size of words": (set_shape(heads="4"), "config.json"),
    "a size of halves": (set_shape(vlm_width=16.5), "config.json"),
    "a size of none": (set_shape(heads=0), "config.json"),
    "a negative size": (set_shape(state_dim=-1), "config.json"),
    "a size beyond all memory": (set_shape(vlm_width=10**7), "config.json"),
    "executes more than it predicts": (set_config(replan=5), "replan"),
    "executes nothing": (set_config(replan=0), "replan"),
    "denoises never": (set_config(denoise_steps=0), "denoise_steps"),
    "a center that is not finite": (set_numbers("state", center=[float("nan")] * 39), "normalization.json"),
    "a negative scale": (set_numbers("action", scale=[-1.0] * 4), "normalization.json"),
    "a nested scale": (set_numbers("action", scale=[[1.0]] * 4), "normalization.json"),
    "words beyond its table": (
        edit_json("tokenizer.json", lambda c: c["model"]["vocab"].update(zebra=999)),
        "tokenizer.json",
    ),
    "no start token": (edit_json("tokenizer.json", lambda c: c["model"]["vocab"].pop("<start>")), "tokenizer.json"),
    "sees one camera": (other_policy(cameras=1), "cameras"),
    "sees larger images": (other_policy(image_size=48), "image_size"),
    "reads no objects": (other_policy(state_dim=4), "object_state"),
    "moves another robot": (other_policy(action_dim=7), "action"),
}


@pytest.mark.parametrize("case", [*POLICIES, *OTHER_POLICIES])
@pytest.mark.usefixtures("no_simulator")
def test_policies(case: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Both stages that load one, by turns."""
    stage, name = [("rl", "sft"), ("evaluate", "flow_sde")][len(case) % 2]
    edit, words = OTHER_POLICIES.get(case, (POLICIES.get(case), ""))
    assert edit is not None
    edit(here / f"outputs/policy/metaworld-{name}-0")
    refused(stage, words or f"outputs/policy/metaworld-{name}-0", capfd)


@pytest.mark.parametrize("stage", ["curate", "rl", "evaluate"])
@pytest.mark.usefixtures("here", "no_simulator")
def test_good_inputs_are_taken(stage: str) -> None:
    """So what was refused above was refused before any simulator. A stage that breaks off leaves all as it was."""
    before = tree()
    with pytest.raises(Started):
        call(stage)
    assert tree() == before


@pytest.mark.parametrize("words", BREAKS)
def test_evaluations(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIRL_THREADS", "1")
    fill(Path("outputs"), make_params(Path()))
    BREAKS[words](Path("outputs/evaluate/tiny-flow_sde-0/episodes.parquet"))
    refused("report", words, capfd)


@pytest.mark.parametrize(
    ("stage", "damage", "words"),
    [
        ("sft", lambda: Path(DATASET, "data/chunk-000/file-000.parquet").write_bytes(b"PAR1"), "damaged parquet"),
        ("rl", lambda: Path(POLICY, "model.safetensors").write_bytes(b"\x80\x04K\x01."), "model.safetensors"),
    ],
)
def test_as_processes(stage: str, damage: Callable[[], object], words: str, here: Path, root: Path) -> None:
    damage()
    before = tree()
    options = [text for option in NEEDS[stage] for text in (f"--{option}", ARGUMENTS[option])]
    done = subprocess.run(
        [sys.executable, "-m", f"pirl_core.stages.{stage}", *options],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), "PIRL_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert re.fullmatch(rf"pirl: {stage}: [^\n]*{words}[^\n]*\n", done.stderr), done.stderr
    assert tree() == before
    assert json.loads((here / "results/smoke/metrics.json").read_text()) == {}

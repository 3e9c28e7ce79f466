"""dvc.yaml against the code, and what really reruns when something changes."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.parsing import DataResolver, ResolveError
from dvc.repo import Repo

from pirl_core.params.file import load_params
from pirl_core.params.preset import preset_values
from pirl_core.params.sections import Risk
from pirl_core.provenance.code import PACKAGE
from pirl_core.stages.job import NEEDS, READS
from pirl_core.stages.sources import path_of

# What each stage writes, as the stand-ins need it; DVC fails where that is less than dvc.yaml says.
OUTS = """\
import pathlib, re

def outs_of(stage, *names):
    scale = re.search(r"^scale: (\\w+)", pathlib.Path("params.yaml").read_text(), re.MULTILINE)[1]
    tables = ("episodes.parquet", "curves.parquet")
    files = ("report.md", "metrics.json", "run.json", "learning.svg", *tables, "success.json")
    name = "-".join(names)
    return {
        "curate": [f"outputs/curate/{name}"],
        "sft": [f"outputs/policy/{'-sft-'.join(names)}", f"outputs/sft/{name}"],
        "rl": [f"outputs/policy/{name}", f"outputs/rl/{name}"],
        "evaluate": [f"outputs/evaluate/{name}"],
        "risk": [f"outputs/risk/{name}"],
        "report": [*(f"results/{scale}/{file}" for file in files), "outputs/report"],
    }[stage]
"""
# Stands for `python` while DVC runs the stages: real commands, folders and records, but a new text instead of training.
STAND_IN = f"""\
{OUTS}
import sys, uuid
stage, names = sys.argv[2].rpartition(".")[2], sys.argv[4::2]
paths = [out if out.startswith("results") else f"{{out}}/x" for out in outs_of(stage, *names)]
for out in [*paths, *([f"outputs/run/{{stage}}/{{'-'.join(names)}}.json"] if names else [])]:
    path = pathlib.Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{{"token": "%s"}}' % uuid.uuid4())
"""


@pytest.fixture
def pipeline(root: Path) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    return stages


@pytest.mark.parametrize("stage", NEEDS)
def test_a_stage_depends_on_what_its_code_does(stage: str, pipeline: dict[str, Any]) -> None:
    item = {need: f"${{item.{need}}}" for need in ("experiment", "method")}
    if stage in ("risk", "report"):
        item = dict.fromkeys(item, "")
    assert path_of(stage, item["experiment"], item["method"]).as_posix() in pipeline[stage]["deps"]
    assert not [path for path in pipeline[stage]["deps"] if path.startswith("pirl_core")]


@pytest.mark.parametrize("stage", NEEDS)
def test_a_stage_declares_the_parameters_it_reads(stage: str, pipeline: dict[str, Any]) -> None:
    listed = set(pipeline[stage]["params"])
    if stage == "report":
        assert listed == {"scale", "seeds", "policies", "experiments", "risk", *READS[stage]}
        return
    override = "experiments.${item.experiment}."
    expected = {*READS[stage], *(override + section for section in READS[stage])}
    if stage == "risk":  # its own experiment and method, and all that is none
        chosen = {f"{need}s": f"{need}s.${{item.{need}}}" for need in ("experiment", "method")}
        expected = {f"risk.{chosen.get(key, key)}" for key in Risk.model_fields}
    if stage == "rl":
        expected.add("methods.${item.method}")
    if stage == "evaluate":
        expected.add(override + "model")
    assert listed == expected
    # Of ${item} DVC makes an option for each key of the matrix.
    assert pipeline[stage]["cmd"] == [f"python -m pirl_core.stages.{stage} ${{item}}"]
    assert tuple(pipeline[stage]["matrix"]) == NEEDS[stage]


HOSTILE = (
    "x; touch MADE", "x & touch MADE", "x | touch MADE", "x > MADE", "$(touch MADE)", "`touch MADE`", "${seeds}",
    "\\${seeds}", "x\ntouch MADE\n", "x\rtouch MADE", "x\u2028touch MADE\u2028", "'; touch MADE; '", '"; touch MADE; "',
    "'\ntouch MADE\n'", "\\'\"; touch MADE; #", "x y", "*", "~", "#", "%s", "a=b", "\\",
)  # fmt: skip


LISTS = {"curate": "experiments", "sft": "seeds", "rl": "methods", "evaluate": "policies", "risk": "risk.methods"}


def resolved(workspace: Path, stage: str, names: Any) -> list[str]:
    """The commands that DVC makes of one stage when params.yaml lists ``names`` where this stage looks last."""
    _set(workspace / "params.yaml", (LISTS[stage], names))
    definition = yaml.safe_load((workspace / "dvc.yaml").read_text())["stages"][stage]
    with Repo(str(workspace)) as repo:
        resolver = DataResolver(repo, str(workspace), {"stages": {stage: definition}})
        return [command for entry in resolver.resolve()["stages"].values() for command in entry["cmd"]]


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("stage", LISTS)
def test_a_name_in_params_is_one_word_to_the_shell(stage: str, shell: str, workspace: Path) -> None:
    """With a python that tells its arguments."""
    python = workspace / "bin/python"
    python.write_text('#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done\n')
    environment = {"PATH": f"{workspace}/bin:{os.environ['PATH']}"}
    names = [*HOSTILE] if LISTS[stage] in ("seeds", "policies") else {name: {} for name in HOSTILE}
    if stage == "risk":
        _set(workspace / "params.yaml", ("risk.experiments", names))
    found = set()
    for command in resolved(workspace, stage, names):
        done = subprocess.run([shell, "-c", command], cwd=workspace, env=environment, capture_output=True, check=True)
        _, module, *words, end = done.stdout.decode().split("\0")
        assert (module, done.stderr, end) == (f"pirl_core.stages.{stage}", b"", "")
        options = dict(zip(words[::2], words[1::2], strict=True))
        assert tuple(options) == tuple(f"--{need}" for need in NEEDS[stage])
        found |= set(options.values())
    assert found >= {name.replace("\\${", "${") for name in HOSTILE}
    assert not list(workspace.rglob("MADE*"))


@pytest.mark.parametrize("value", [{"x; touch MADE": 1}, ["x; touch MADE"], [["$(touch MADE)"]]])
@pytest.mark.parametrize("stage", ["sft", "evaluate"])
def test_dvc_refuses_a_list_of_anything_but_words(stage: str, value: Any, workspace: Path) -> None:
    """It would quote the values of a mapping, not its keys."""
    with pytest.raises(ResolveError, match="Cannot interpolate"):
        resolved(workspace, stage, [value])


def _set(path: Path, *edits: tuple[str, Any]) -> None:
    """Change dotted keys of a YAML file; a value of None removes the key."""
    content = yaml.safe_load(path.read_text())
    for dotted, value in edits:
        *above, last = dotted.split(".")
        node = content
        for key in above:
            node = node[key]
        if value is None:
            del node[last]
        else:
            node[last] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def copy_project(root: Path, folder: Path) -> None:
    """What DVC and the flows need of a clone, without git, and a folder ``bin`` for a stand-in."""
    for package in (PACKAGE, "flows"):
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", "pyproject.toml"):
        shutil.copy(root / name, folder / name)
    (folder / ".dvc").mkdir()
    config = (root / ".dvc" / "config").read_text()
    (folder / ".dvc" / "config").write_text(config + "    no_scm = true\n")
    (folder / "bin").mkdir()


@pytest.fixture
def workspace(root: Path, tmp_path: Path) -> Path:
    """A copy of the repository with two experiments and a stand-in for python."""
    copy_project(root, tmp_path)
    params = preset_values("smoke")
    del params["methods"]["flow_noise"]
    params["policies"] = ["sft", "flow_sde"]
    one = params["experiments"]["metaworld"]
    params["experiments"] = {"a": one, "b": copy.deepcopy(one)}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    load_params(tmp_path / "params.yaml")
    (tmp_path / "bin" / "stand_in.py").write_text(STAND_IN)
    python = tmp_path / "bin" / "python"
    # What the code does is looked at for real.
    python.write_text(
        f'#!/bin/sh\n[ "$2" = pirl_core.stages.sources ] && exec "{sys.executable}" "$@"\n'
        f'exec "{sys.executable}" -S "{tmp_path}/bin/stand_in.py" "$@"\n'
    )
    python.chmod(0o755)
    return tmp_path


def _dvc(workspace: Path, *arguments: str) -> str:
    environment = {**os.environ, "PATH": f"{workspace / 'bin'}:{os.environ['PATH']}", "SHELL": "/bin/sh"}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=workspace, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def begun(printed: str) -> list[str]:
    """Stages that DVC tells to run, but for the one that always does."""
    return [name for name in re.findall(r"Running stage '([^']+)'", printed) if name != "sources"]


def _repro(workspace: Path) -> set[str]:
    return set(begun(_dvc(workspace, "repro")))


@pytest.mark.slow
def test_a_change_reruns_what_depends_on_it_and_nothing_else(workspace: Path) -> None:
    params = workspace / "params.yaml"
    first = _repro(workspace)
    assert {f"{s}@{e}" for s in ("sft", "rl") for e in "ab"} <= {re.sub(r"-.*", "", name) for name in first}
    assert len(first) == 11
    assert _repro(workspace) == set()

    _set(params, ("experiments.b.rl", {"actor_lr": 0.002}))
    assert _repro(workspace) == {"rl@b-flow_sde-0", "evaluate@b-flow_sde-0", "report"}
    _set(params, ("methods.flow_sde.noise_level", 0.3))
    assert _repro(workspace) == {f"{s}@{e}-flow_sde-0" for s in ("rl", "evaluate") for e in "ab"} | {"report"}
    _set(params, ("report.title", "Another"))
    assert _repro(workspace) == {"report"}

    # Nothing of seed 0 runs again.
    _set(params, ("seeds", [0, 5]))
    ran = _repro(workspace)
    assert ran == {f"{s}-5" for e in "ab" for s in (f"sft@{e}", f"rl@{e}-flow_sde", f"evaluate@{e}-sft")} | {
        f"evaluate@{e}-flow_sde-5" for e in "ab"
    } | {"report"}

    _set(params, ("experiments.a", None))
    assert _repro(workspace) == {"report"}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.slow
def test_a_change_of_code_reruns_what_does_something_else(workspace: Path) -> None:
    """m: MetaWorld with π0; g: MetaWorld with GR00T; l: LIBERO with π0; two methods each."""
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    one = params["experiments"]["a"]
    libero = preset_values("libero")
    params["methods"]["flow_noise"] = preset_values("smoke")["methods"]["flow_noise"]
    params["policies"] = ["sft", "flow_sde", "flow_noise"]
    splits = {"id": {"tasks": None, "shift": "none", "episodes_per_task": 1}}
    params["experiments"] = {
        "m": one,
        "g": {**one, "policy": {"backbone": "groot"}},
        "l": {**one, "env": libero["env"], "evaluate": {"splits": splits}},
    }
    (workspace / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    first = _repro(workspace)
    assert len(first) == 3 * 7 + 1
    package = workspace / PACKAGE
    rl = {e: {f"{s}@{e}-{m}-0" for s in ("rl", "evaluate") for m in ("flow_sde", "flow_noise")} for e in "mgl"}
    of = {e: rl[e] | {f"curate@{e}", f"sft@{e}-0", f"evaluate@{e}-sft-0"} for e in "mgl"}

    # A comment, a docstring, another layout; something new beside the others; what only tells or checks.
    noise = package / "flow/noise.py"
    edit(noise, "import math\n", "import math  # a comment\n")
    edit(noise, '"""', '"""Really: ')
    noise.write_text(noise.read_text().replace(" + ", " \\\n        + "))
    (package / "flow/rules/new.py").write_text((package / "flow/rules/flow_sde.py").read_text())
    shutil.copytree(package / "envs/metaworld", package / "envs/new")
    shutil.copytree(package / "policy/families/pi0", package / "policy/families/new")
    edit(package / "training/track.py", "import json\n", "import json\n\nNEW = 1\n")
    edit(package / "params/errors.py", "\n\n\n", "\n\nNEW = 1\n\n\n")
    assert _repro(workspace) == set()

    (package / "envs/libero/simulator.py").open("a").write("NEW = 1\n")
    assert _repro(workspace) == of["l"] | {"report"}
    (package / "policy/families/pi0/network.py").open("a").write("NEW = 1\n")
    assert _repro(workspace) == {name for e in "ml" for name in of[e] if "curate" not in name} | {"report"}
    edit(package / "flow/rules/flow_sde.py", "return ", "return -")
    assert _repro(workspace) == {f"{s}@{e}-flow_sde-0" for s in ("rl", "evaluate") for e in "mgl"} | {"report"}
    (package / "report/tables.py").open("a").write("NEW = 1\n")
    assert _repro(workspace) == {"report"}
    (package / "envs/vector/worker.py").open("a").write("NEW = 1\n")
    assert _repro(workspace) == {name for e in "mgl" for name in of[e]} | {"report"}


@pytest.mark.slow
def test_without_a_method_there_is_sft_and_its_evaluation(workspace: Path) -> None:
    params = workspace / "params.yaml"
    _set(params, ("methods", {}), ("policies", ["sft"]), ("experiments.b", None))
    load_params(params)
    first = {"curate@a", "sft@a-0", "evaluate@a-sft-0", "report"}
    assert _repro(workspace) == first
    assert _repro(workspace) == set()
    # A first method runs by itself.
    _set(params, ("methods", {"flow_sde": {}}), ("policies", ["sft", "flow_sde"]))
    assert _repro(workspace) == {"rl@a-flow_sde-0", "evaluate@a-flow_sde-0", "report"}
    assert _repro(workspace) == set()


@pytest.mark.slow
def test_a_scale_may_have_risk_alone(workspace: Path) -> None:
    """Its stages are those of its own experiments and methods; one is added, changed and removed by itself."""
    params = workspace / "params.yaml"
    section = preset_values("risk")["risk"]
    worlds = {name: section["experiments"][name] for name in ("pomdp", "fork")}
    ways = {"greedy": section["methods"]["greedy"]}
    _set(params, ("experiments", {}), ("policies", []), ("risk.experiments", worlds), ("risk.methods", ways))
    load_params(params)
    assert _repro(workspace) == {"risk@pomdp-greedy-0", "risk@fork-greedy-0", "report"}
    assert _repro(workspace) == set()
    _set(params, ("risk.experiments.fork.horizon", 3))
    assert _repro(workspace) == {"risk@fork-greedy-0", "report"}
    _set(params, ("risk.methods.literal", section["methods"]["literal"]))
    assert _repro(workspace) == {"risk@pomdp-literal-0", "risk@fork-literal-0", "report"}
    _set(params, ("seeds", [0, 1]), ("risk.methods.literal", None))
    assert _repro(workspace) == {"risk@pomdp-greedy-1", "risk@fork-greedy-1", "report"}
    _set(params, ("risk.episodes", 100))
    assert len(_repro(workspace)) == 5
    edit(workspace / PACKAGE / "risk/beta.py", "return M", "return 1 * M")
    assert len(_repro(workspace)) == 5
    edit(workspace / PACKAGE / "rl/losses.py", "return ", "return -")
    assert _repro(workspace) == set()


@pytest.mark.slow
def test_a_folder_of_others_is_looked_at_like_any_other(workspace: Path) -> None:
    data = workspace / "theirs"
    (data / "meta").mkdir(parents=True)
    for name in ("meta/info.json", "0.parquet"):
        (data / name).write_text(name)
    _set(workspace / "params.yaml", ("experiments.b.curate", {"dataset": "theirs"}))
    assert len(_repro(workspace)) == 11
    assert _repro(workspace) == set()
    for change in ((data / "0.parquet").unlink, lambda: (data / "meta/info.json").write_text("other")):
        assert "curate" not in _dvc(workspace, "status")
        change()
        # Whether or not the first stage has looked.
        assert re.search(r"curate@b:\n\s+changed deps:\n\s+modified:\s+outputs/datasets/b\n", _dvc(workspace, "status"))
        assert _repro(workspace) == {
            "curate@b", "sft@b-0", "rl@b-flow_sde-0", "evaluate@b-sft-0", "evaluate@b-flow_sde-0", "report",
        }  # fmt: skip


def test_results_are_kept_in_git_and_large_outputs_are_not(root: Path, pipeline: dict[str, Any]) -> None:
    outs = pipeline["report"]["outs"]
    plain = [next(iter(out)) for out in outs if isinstance(out, dict) and out[next(iter(out))] == {"cache": False}]
    files = (
        "report.md",
        "metrics.json",
        "run.json",
        "learning.svg",
        "episodes.parquet",
        "curves.parquet",
        "success.json",
    )
    assert plain == [f"results/${{scale}}/{file}" for file in files]
    assert "/outputs/" in (root / ".gitignore").read_text().splitlines()
    assert (
        json.dumps([o for s in pipeline.values() for o in s["outs"] if isinstance(o, str) and o[:8] != "outputs/"])
        == "[]"
    )

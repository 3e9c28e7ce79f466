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
from pirl_core.stages.cli import NEEDS, READS
from pirl_core.stages.deps import PACKAGE, STAGES, stage_sources, with_sources

# Stands for `python` while DVC runs the stages: real commands, folders and records, but a new text instead of training.
STAND_IN = """\
import argparse, pathlib, re, sys, uuid
stage = sys.argv[2].rpartition(".")[2]
parser = argparse.ArgumentParser()
for option in ("experiment", "method", "seed"):
    parser.add_argument("--" + option, default="")
a = parser.parse_args(sys.argv[3:])
name = "-".join(part for part in (a.experiment, a.method, a.seed) if part)
scale = re.search(r"^scale: (\\w+)", pathlib.Path("params.yaml").read_text(), re.MULTILINE)[1]
files = ("report.md", "metrics.json", "run.json", "learning.svg", "episodes.parquet", "success.json")
outs = {
    "curate": [f"outputs/curate/{name}/x"],
    "sft": [f"outputs/policy/{a.experiment}-sft-{a.seed}/x", f"outputs/sft/{name}/x"],
    "rl": [f"outputs/policy/{name}/x", f"outputs/rl/{name}/x"],
    "evaluate": [f"outputs/evaluate/{name}/x"],
    "report": [f"results/{scale}/{file}" for file in files],
}[stage]
for out in [*outs, f"outputs/run/{stage}/{name}.json" if name else "outputs/report/x"]:
    path = pathlib.Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"token": "%s"}' % uuid.uuid4())
"""


@pytest.fixture
def pipeline(root: Path) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    return stages


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_modules_it_imports(stage: str, root: Path, pipeline: dict[str, Any]) -> None:
    listed = [path for path in pipeline[stage]["deps"] if path.startswith(PACKAGE + "/")]
    assert listed == stage_sources(stage, root), "run python -m pirl_core.stages.deps --write"
    assert f"{PACKAGE}/stages/{stage}.py" in listed


def test_the_walker_finds_what_python_loads(root: Path) -> None:
    """Everything a stage module loads on import is listed; what its functions load later may be more."""
    code = "import sys, pirl_core.stages.evaluate; print(*(m for m in sys.modules if m.startswith('pirl_core')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    listed = stage_sources("evaluate", root)
    for module in done.stdout.split():
        path = root.joinpath(*module.split("."))
        own = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        assert own.relative_to(root).as_posix() in listed


def test_the_walker_follows_every_kind_of_import(tmp_path: Path) -> None:
    files = {
        "__init__.py": "",
        "stages/__init__.py": "",
        "stages/rl.py": "from pirl_core import a\ndef run():\n  import pirl_core.b.c\n  from pirl_core.d import f\n",
        "a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pirl_core import never\n",
        "b/__init__.py": "",
        "b/c.py": "import pirl_core.a\nimport numpy\n",
        "b/page.html": "",
        "d.py": "def f(): pass\n",
        "never.py": "",
    }
    for name, text in files.items():
        path = tmp_path / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    expected = sorted(f"{PACKAGE}/{name}" for name in files if name != "never.py")
    assert stage_sources("rl", tmp_path) == expected


def test_writing_the_sources_keeps_everything_else(root: Path) -> None:
    text = (root / "dvc.yaml").read_text()
    bare = re.sub(rf"^      - {PACKAGE}/.*\n", "", text, flags=re.MULTILINE)
    assert with_sources(bare, root) == with_sources(text, root) == text


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_the_parameters_it_reads(stage: str, pipeline: dict[str, Any]) -> None:
    listed = set(pipeline[stage]["params"])
    if stage == "report":
        assert listed == {"scale", "seeds", "policies", "experiments", *READS[stage]}
        return
    override = "experiments.${item.experiment}."
    expected = {*READS[stage], *(override + section for section in READS[stage])}
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


LISTS = {"curate": "experiments", "sft": "seeds", "rl": "methods", "evaluate": "policies"}


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
    names = {name: {} for name in HOSTILE} if LISTS[stage] in ("experiments", "methods") else [*HOSTILE]
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


@pytest.fixture
def workspace(root: Path, tmp_path: Path) -> Path:
    """A copy of the repository with two experiments and a stand-in for python, without git."""
    shutil.copytree(root / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(root / name, tmp_path / name)
    (tmp_path / ".dvc").mkdir()
    config = (root / ".dvc" / "config").read_text()
    (tmp_path / ".dvc" / "config").write_text(config + "    no_scm = true\n")
    params = preset_values("smoke")
    del params["methods"]["flow_noise"]
    params["policies"] = ["sft", "flow_sde"]
    one = params["experiments"]["metaworld"]
    params["experiments"] = {"a": one, "b": copy.deepcopy(one)}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    load_params(tmp_path / "params.yaml")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "stand_in.py").write_text(STAND_IN)
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{tmp_path}/bin/stand_in.py" "$@"\n')
    python.chmod(0o755)
    return tmp_path


def _dvc(workspace: Path, *arguments: str) -> str:
    environment = {**os.environ, "PATH": f"{workspace / 'bin'}:{os.environ['PATH']}", "SHELL": "/bin/sh"}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=workspace, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _repro(workspace: Path) -> set[str]:
    """Stages that ran."""
    return set(re.findall(r"Running stage '([^']+)'", _dvc(workspace, "repro")))


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

    # A comment in the report's code is a change of the report's code only.
    source = workspace / PACKAGE / "report" / "tables.py"
    source.write_text(source.read_text() + "# a comment\n")
    assert _repro(workspace) == {"report"}


@pytest.mark.slow
def test_dvc_experiments_override_a_parameter(workspace: Path) -> None:
    """`dvc exp run -S` writes 1e-4 its own way; the loader has to read it."""
    (workspace / ".gitignore").write_text("/outputs/\n/results/\n")
    config = workspace / ".dvc" / "config"
    config.write_text(config.read_text().replace("    no_scm = true\n", ""))
    (workspace / ".dvc" / ".gitignore").write_text("/tmp\n/cache\n")
    subprocess.run(["git", "init", "-q"], cwd=workspace, check=True)
    # dvc commits as well, and a fresh machine names no author.
    for command in ("config user.name t", "config user.email t@example.org", "add -A", "commit -q -m start"):
        subprocess.run(["git", *command.split()], cwd=workspace, check=True)
    _dvc(workspace, "exp", "run", "-S", "rl.actor_lr=1e-5", "-S", "+experiments.b.env.image_size=48", "curate@b")
    params = load_params(workspace / "params.yaml")
    assert params.rl.actor_lr == 1e-5
    assert params.experiments["b"].env == {"image_size": 48}


def test_results_are_kept_in_git_and_large_outputs_are_not(root: Path, pipeline: dict[str, Any]) -> None:
    outs = pipeline["report"]["outs"]
    plain = [next(iter(out)) for out in outs if isinstance(out, dict) and out[next(iter(out))] == {"cache": False}]
    files = ("report.md", "metrics.json", "run.json", "learning.svg", "episodes.parquet", "success.json")
    assert plain == [f"results/${{scale}}/{file}" for file in files]
    assert "/outputs/" in (root / ".gitignore").read_text().splitlines()
    assert (
        json.dumps([o for s in pipeline.values() for o in s["outs"] if isinstance(o, str) and o[:8] != "outputs/"])
        == "[]"
    )

"""What people type, with a name that is none: one line that says what to give, and nothing is started."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pirl_core.commands.targets import find_stages, stage_names
from pirl_core.errors import UserError
from pirl_core.params.file import load_params
from pirl_core.stages.lock import PIPELINE, take
from tests import ROOT
from tests.flows.workspace import PYTHON


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A clone in which nothing has run, set up elsewhere."""
    for name in ("Makefile", "dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "pirl_core/params/presets", tmp_path / "pirl_core/params/presets")
    return tmp_path


def make(folder: Path, *words: str) -> tuple[int, str]:
    """Exit code, and what it says besides its own line on that."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PREFECT_", "PIRL_"))}
    path = f"{Path(PYTHON).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["make", "-o", "setup", *words], cwd=folder, capture_output=True, text=True,
        env={**own, "PATH": path, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.returncode, re.sub(r"make: \*\*\* .* Error 2\n", "", done.stdout + done.stderr)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("experiment EXPERIMENT=metawrld", "experiment 'metawrld' is unknown; did you mean 'metaworld'?"),
        ("experiment EXPERIMENT=metaworld* ", "experiment 'metaworld*' is unknown; did you mean 'metaworld'?"),
        ("flow EXPERIMENT=metawrld", "experiment 'metawrld' is unknown; did you mean 'metaworld'?"),
        (
            "stage STAGE=rl@metaworld-flow_sd-0",
            "'rl@metaworld-flow_sd-0' is unknown; did you mean 'rl@metaworld-flow_s",
        ),
        ("stage STAGE=training", "stage 'training' is unknown; known: curate, sft, rl, evaluate, report"),
        ("reproduce SCALE=smok", "SCALE=smok is no scale; give one of calvin families"),
        ("flow SCALE=smok", "SCALE=smok is no scale"),
        ("experiment SCALE=smoke EXPERIMENT=metawrld", "experiment 'metawrld' is unknown; did you mean 'metaworld'?"),
        ("reproduce SCALE=base", "SCALE=base is no scale"),
        ("reproduce scale=smoke", "scale= is no variable of this Makefile; it heeds PYTHON EXTRAS SCALE STAGE"),
        ("reproduce FORCE=1", "FORCE=1 overwrites an edited params.yaml by that of a SCALE, which is not given"),
        ("setup EXTRAS=libero,manskill", "EXTRAS=manskill is no simulator; give some of maniskill,libero"),
        ("experiment", "say which: make experiment EXPERIMENT=metaworld"),
        ("stage", "say which: make stage STAGE=rl@metaworld-flow_sde-0"),
        ("reproduce EXPERIMENT=metaworld", "EXPERIMENT=metaworld has no effect here; targets that heed it: experiment"),
    ],
)
def test_a_name_that_is_none(words: str, said: str, here: Path) -> None:
    before = sorted(here.rglob("*"))
    code, printed = make(here, *words.split())
    assert (code, printed.count("\n")) == (2, 1), printed
    assert said in printed
    assert sorted(here.rglob("*")) == before


def test_the_stages_are_those_of_dvc_and_patterns_find_them(root: Path) -> None:
    from dvc.repo import Repo

    params = load_params(root / "params.yaml")
    names = stage_names(params)
    with Repo(str(root)) as repo:
        assert sorted([*names, "sources"]) == sorted(stage.addressing for stage in repo.index.stages)

    def find(*targets: str, glob: bool = False) -> list[str]:
        return find_stages(params, targets, glob, root)

    assert find() == names
    assert find("sft", "dvc.yaml:report") == ["sft@metaworld-0", "report"]
    assert find("evaluate@*-sft-*", glob=True) == ["evaluate@metaworld-sft-0"]
    # What DVC alone may know: it will say.
    assert find("data/more.dvc") == find("sub/dvc.yaml:fetch") == []
    assert find("dvc.yaml") == names
    with pytest.raises(UserError, match="name is empty"):
        find("")
    for target, glob in (("evaluate@metawrld-*", True), ("rl@metaworld-*", False)):
        with pytest.raises(UserError, match=r"is unknown; did you mean '\w+@metaworld-"):
            find(target, glob=glob)


def test_a_stage_of_the_users_own_is_left_to_dvc(here: Path) -> None:
    text = (here / "dvc.yaml").read_text()
    (here / "dvc.yaml").write_text(text.replace("stages:\n", "stages:\n  fetch:\n    cmd: wget\n"))
    assert find_stages(load_params(here / "params.yaml"), ["fetch"], False, here) == []


# Stands for every python that make calls: it makes the environment, and "installs" for a second, each time in a line.
SET_UP = """\
#!/bin/sh
case "$*" in
  *venv*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *install*) echo begin >>pip.log; sleep 1; echo end >>pip.log ;;
esac
"""


def test_setup_tells_its_steps_and_waits_for_whoever_works_here(here: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", here / "pyproject.toml")
    (here / ".constraints.txt").touch()
    python = here / "python3.11"
    python.write_text(SET_UP)
    python.chmod(0o755)
    subprocess.run(["git", "init", "-q"], cwd=here, check=True)
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}

    def setup() -> "subprocess.Popen[str]":
        words = ["make", "setup", f"PYTHON={python}", "EXTRAS=calvin"]
        return subprocess.Popen(words, cwd=here, stdout=-1, stderr=subprocess.STDOUT, text=True, env=own)

    at_work = take(here / PIPELINE)
    both = [setup(), setup()]
    for each in both:
        assert each.stdout is not None
        assert re.match(rf"setup: process {os.getpid()} \(.*, since .*\) works here; waiting", each.stdout.readline())
    assert not (here / ".venv").exists()
    at_work.close()
    printed = sorted((each.communicate(timeout=60)[0] for each in both), key=len)
    assert [each.returncode for each in both] == [0, 0], printed
    # One installs, the other finds all done or waits once more for the extra; no two at once.
    assert (here / "pip.log").read_text().split() == ["begin", "end"] * 2
    steps = [line for text in printed for line in text.splitlines()]
    assert steps.count("setup: done") == 2
    assert any("2.3 GB" in line for line in steps) and any("2 of 3, the packages" in line for line in steps)
    assert all(line.startswith("setup: ") for line in steps), steps
    # Nothing to do, nothing to say.
    assert setup().communicate(timeout=60)[0] in ("", "make: Nothing to be done for 'setup'.\n")


@pytest.mark.parametrize("command", [["pirl_core.commands.scale"], ["pirl_core.commands.repro", "--dry", "--scale"]])
def test_a_scale_is_written_when_no_run_reads_the_file(command: list[str], here: Path) -> None:
    before = (here / "params.yaml").read_bytes()
    at_work = take(here / PIPELINE)
    words = [PYTHON, "-m", *command, "smoke"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=here, stderr=-1, stdout=-1, text=True, env=environment) as switch:
        assert switch.stderr is not None
        assert f"process {os.getpid()} (" in switch.stderr.readline()
        assert (here / "params.yaml").read_bytes() == before
        at_work.close()
        switch.communicate(timeout=60)  # DVC then finds no repository here
    assert load_params(here / "params.yaml").scale == "smoke"

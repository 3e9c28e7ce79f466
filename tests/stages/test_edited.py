"""params.yaml or the code edited under a running stage: DVC records only what ran, whoever started it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from pirl_core.params.preset import preset_values
from tests.stages.test_pipeline import OUTS, copy_project

# In place of `python` for the stages: their own command line, record and locks, and a body that writes what it was told
# and, where it is this stage's turn, edits a file in its midst.
BODY = """\
import json, sys
from pathlib import Path
from pirl_core.stages.cli import report_main, stage_main
from pirl_core.training.resume import open_checkpoints

stage, words = sys.argv[2].rpartition(".")[2], sys.argv[3:]
edit = Path("edit.json")

def body(job):
    told = {**job.parameters(), "model": job.entry.model} if stage != "report" else job.report.model_dump()
    if stage != "report":
        checkpoints = open_checkpoints(stage, job.name, 0, job.fingerprint([]))
        found = checkpoints.latest(print)
        print("resumed" if found else "begun", stage)
        checkpoints.save(1, lambda folder: (folder / "state").write_text("1"))
    for out in outs_of(stage, *words[1::2]):
        path = Path(out) if stage == "report" and out.startswith("results") else Path(out, "told.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told))
    if edit.exists() and json.loads(edit.read_text())["stage"] == stage:
        change = json.loads(edit.read_text())
        edit.unlink()
        Path(change["path"]).write_text(change["text"])

raise SystemExit(report_main(body, words) if stage == "report" else stage_main(stage, body, words))
"""
KEYS: dict[str, tuple[str, str, Any]] = {
    "curate": ("curate", "action_noise", 0.25),
    "sft": ("sft", "lr", 0.0625),
    "rl": ("rl", "actor_lr", 0.125),
    "evaluate": ("evaluate", "num_envs", 3),
    "report": ("report", "title", "Another"),
}
STARTS = {
    "make": ["-m", "pirl_core.commands.repro"],
    "dvc": ["-m", "dvc", "repro"],
    "flow": ["-m", "flows.run"],
}
# The stage's own look at its end is the same whoever starts it; what differs is who is told, and the report's place.
EDITED = {"make": ("sft", "report"), "dvc": tuple(KEYS), "flow": ("rl", "report")}


@pytest.fixture
def workspace(root: Path, tmp_path: Path) -> Path:
    """One experiment, one method: five stages and the policy before RL."""
    copy_project(root, tmp_path)
    params = preset_values("smoke")
    del params["methods"]["flow_noise"]
    params["policies"] = ["flow_sde"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (tmp_path / "bin/body.py").write_text(OUTS + BODY)
    python = tmp_path / "bin/python"
    python.write_text(
        f'#!/bin/sh\n[ "$2" = pirl_core.stages.sources ] && exec "{sys.executable}" "$@"\n'
        f'exec "{sys.executable}" "{tmp_path}/bin/body.py" "$@"\n'
    )
    python.chmod(0o755)
    return tmp_path


def start(workspace: Path, words: Sequence[str]) -> tuple[int, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PIRL_"))}
    environment = own | {
        "PATH": f"{workspace}/bin:{Path(sys.executable).parent}:{own['PATH']}", "PYTHONPATH": str(workspace),
        "SHELL": "/bin/sh", "PREFECT_HOME": str(workspace / "prefect"),
    }  # fmt: skip
    done = subprocess.run([sys.executable, *words], cwd=workspace, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def changed(workspace: Path, stage: str) -> str:
    """params.yaml with another value for the stage."""
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    section, key, value = KEYS[stage]
    params[section][key] = value
    return yaml.safe_dump(params, sort_keys=False)


def told(workspace: Path, stage: str) -> Any:
    """The values that the stage's output was made with."""
    folder = {"report": "outputs/report"}.get(stage, f"outputs/{stage}")
    values = json.loads(next((workspace / folder).rglob("told.json")).read_text())
    section, key, _ = KEYS[stage]
    return values[key] if stage == "report" else values[section][key]


def recorded(workspace: Path, stage: str) -> Any:
    """The value that dvc.lock says; None where the stage is not in it."""
    lock = yaml.safe_load((workspace / "dvc.lock").read_text()) if (workspace / "dvc.lock").exists() else {}
    for name, entry in lock.get("stages", {}).items():
        if name.partition("@")[0] == stage:
            section, key, _ = KEYS[stage]
            return entry["params"]["params.yaml"][section][key]
    return None


@pytest.mark.slow
@pytest.mark.parametrize("by", STARTS)
def test_an_edit_under_a_running_stage_poisons_nothing(by: str, workspace: Path) -> None:
    """One stage after another; the old values then go on from its checkpoint, the new ones begin anew."""
    if by == "flow":
        pytest.importorskip("prefect")
    for stage in EDITED[by]:
        new = KEYS[stage][2]
        old_text, new_text = (workspace / "params.yaml").read_text(), changed(workspace, stage)
        edit = {"stage": stage, "path": "params.yaml", "text": new_text}
        (workspace / "edit.json").write_text(json.dumps(edit))
        code, said = start(workspace, STARTS[by])
        assert code and "Traceback" not in said, said
        assert not (workspace / "edit.json").exists(), said
        assert f"pirl: {stage}: params.yaml changed while this ran" in said, said
        assert recorded(workspace, stage) is None
        old = told(workspace, stage)
        assert old != new

        (workspace / "params.yaml").write_text(old_text)
        if by != "dvc":  # what follows is DVC's alone
            continue
        code, said = start(workspace, ["-m", "dvc", "repro", "--glob", f"{stage}*"])
        assert code == 0 and (f"resumed {stage}" in said or stage == "report"), said
        assert (recorded(workspace, stage), told(workspace, stage)) == (old, old)
        (workspace / "params.yaml").write_text(new_text)
        code, said = start(workspace, ["-m", "dvc", "repro", "--glob", f"{stage}*"])
        assert code == 0 and (f"begun {stage}" in said or stage == "report"), said
        assert (recorded(workspace, stage), told(workspace, stage)) == (new, new)
        # DVC's run cache gives back what belongs to the values.
        (workspace / "params.yaml").write_text(old_text)
        code, said = start(workspace, ["-m", "dvc", "repro", "--glob", f"{stage}*"])
        assert code == 0 and ("is cached" in said or stage == "report"), said  # its files are in git
        assert (recorded(workspace, stage), told(workspace, stage)) == (old, old)
    code, said = start(workspace, STARTS[by])
    assert code == 0, said
    for stage, (_, _, new) in KEYS.items():
        assert recorded(workspace, stage) == told(workspace, stage) != new


@pytest.mark.slow
def test_code_edited_between_two_stages_stops_the_second(workspace: Path) -> None:
    """And one that does nothing else does not; the next run records what it ran."""
    source = workspace / "pirl_core/rl/losses.py"
    text = source.read_text()
    edit = {"stage": "sft", "path": str(source), "text": text + "# a comment\n"}
    (workspace / "edit.json").write_text(json.dumps(edit))
    code, said = start(workspace, STARTS["dvc"])
    assert code == 0, said
    (workspace / "params.yaml").write_text(changed(workspace, "sft"))
    (workspace / "edit.json").write_text(json.dumps({**edit, "text": text + "NEW = 1\n"}))
    code, said = start(workspace, STARTS["dvc"])
    assert code and "pirl: rl: pirl_core/rl/losses.py has changed since this run of the pipeline began" in said, said
    code, said = start(workspace, STARTS["dvc"])
    assert code == 0 and "Running stage 'sft" not in said and "Running stage 'rl" in said, said

"""``pirl doctor``: it tells, and outlives, whatever it tries."""

import os
import re
from pathlib import Path

import psutil
import pytest

from pirl_core.commands import cli

FACTS = """
from pirl_core.facts import Facts, Task

TASKS = {"reach": Task(("reach",), "all")}
FACTS = Facts("Mine", TASKS, ("all",), (), (), ("x",), 1, ("dx",), 10, "dot", 1.0)
"""
OPENS = {
    "hangs": "import subprocess, time; subprocess.Popen(['sleep', '67.25']); time.sleep(67.25)",
    "dies": "import os; os.abort()",
    "lacks": "from pirl_core.errors import UserError; raise UserError('no such arm; buy one')",
}


def sleepers() -> int:
    return sum("67.25" in (process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))


def squeezed(text: str) -> str:
    """Each run of blanks is one."""
    return re.sub(" +", " ", text)


@pytest.mark.slow
def test_each_thing_is_tried_and_told_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One benchmark that runs, one that hangs with a process of its own, one that ends its process, one that lacks."""
    for name, body in OPENS.items():
        (folder := tmp_path / "lab" / name).mkdir(parents=True)
        (folder / "facts.py").write_text(FACTS)
        (folder / "open.py").write_text(f"def simulator(settings, episode):\n    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor", "--timeout", "60", "--benchmark", "metaworld"]) == 0
    said = squeezed(capsys.readouterr().out)
    assert "\nok benchmark metaworld assembly-v3: a step and a picture\n" in said
    for what in ("python", "packages, serve", "threads", "memory", "disk here", "GPU", "OpenGL, egl", "Vulkan", "hub"):
        assert f" {what} " in said
    assert said.rstrip().endswith("Next: make reproduce SCALE=smoke")
    monkeypatch.setattr("pirl_core.commands.doctor._drawing", lambda seconds: iter(()))
    assert (
        cli.main(["doctor", "--timeout", "8", *(word for name in OPENS for word in ("--benchmark", f"lab.{name}"))])
        == 0
    )
    told = squeezed(capsys.readouterr().out)
    for line in ("lab.hangs no answer within 8 s", "lab.dies ended by SIGABRT", "lab.lacks no such arm"):
        assert f"\nno benchmark {line}\n" in told
    assert "\n benchmark lab.lacks: buy one\n" in told
    assert sleepers() == 0
    assert {path.name for path in tmp_path.iterdir()} == {"lab"}, "it writes nothing"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--benchmark", "nowhere"], "--benchmark nowhere: unknown; such are calvin, "),
        (["--timeout", "0"], "--timeout 0: must be 1 or more"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"pirl: doctor: {told}") and said.count("\n") == 1

"""The command line: each option explained, quick to load, completed by a real shell."""

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

from pirl_core.commands.cli import NEXT, RUN, SHELLS, main

HEAVY = {
    "torch",
    "pandas",
    "pyarrow",
    "scipy",
    "matplotlib",
    "mujoco",
    "transformers",
    "accelerate",
    "ray",
    "tensorboard",
    "huggingface_hub",
}
COMMANDS = (
    "status",
    "runs",
    "compare",
    "claims",
    "scale",
    "plan",
    "inspect",
    "export",
    "push",
    "serve",
    "completion",
)


def modules(root: Path) -> list[str]:
    """Every module of the package that is a command."""
    sources = sorted((root / "pirl_core").rglob("*.py"))
    found = [path for path in sources if '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8")]
    return [".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__main__") for path in found]


def unexplained(text: str) -> list[str]:
    """Options and arguments in a --help text that no words follow."""
    entries = text[re.search(r"^(positional arguments|options):$", text, re.MULTILINE).start() :]  # type: ignore[union-attr]
    lines = [line for line in entries.splitlines() if line.startswith("  ")]
    return [line for line, after in zip(lines, [*lines[1:], ""], strict=True) if _bare(line) and _bare_next(after)]


def _bare(line: str) -> bool:
    return re.match(r" {2,4}\S", line) is not None and re.match(r" {2,4}\S.*?  +\S", line) is None


def _bare_next(line: str) -> bool:
    return not line.startswith(" " * 8)


def test_the_check_itself_finds_a_missing_line() -> None:
    text = (
        "options:\n  -h, --help  show\n  --bad\n  --long-option-name NAME\n                        said\n  --worse N\n"
    )
    assert unexplained(text) == ["  --bad", "  --worse N"]


def test_every_option_of_every_command_is_explained(root: Path) -> None:
    # DVC's own command line is DVC's to explain.
    names = [name for name in modules(root) if name != "pirl_core.commands.dvc"]
    assert {"pirl_core", "pirl_core.commands.scale", "pirl_core.stages.rl", "pirl_core.stages.sources"} <= set(names)
    calls = [*([name] for name in names), *(["pirl_core", command] for command in COMMANDS)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", *call, "--help"],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},  # a terminal that knows no other signs
        )
        for call in calls
    ]
    for call, process in zip(calls, running, strict=True):
        text, errors = process.communicate(timeout=60)
        assert process.returncode == 0, (call, errors)
        assert "usage:" in text, call
        assert len(text.split("\n\n")[1]) > 20, f"{call} says nothing about itself"
        assert unexplained(text) == [], call


def test_paths_in_help_are_those_of_the_pipeline(root: Path) -> None:
    """Each is an output of dvc.yaml with the names of params.yaml; wrapped lines are joined."""
    with Repo(str(root)) as repo:
        outs = {str(out) for stage in repo.index.stages for out in stage.outs}
    for command in COMMANDS:
        text = subprocess.run(
            [sys.executable, "-m", "pirl_core", command, "--help"],
            cwd=root, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "400"},
        ).stdout  # fmt: skip
        named = set(re.findall(r"outputs/[\w./-]*\w", text))
        assert named <= outs, command
        assert named or command not in ("export", "push")


def spent() -> float:
    """Processor seconds of all finished child processes: unlike wall time, the same on a busy machine."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_it_loads_within_a_second_and_nothing_heavy(root: Path) -> None:
    code = "import sys; from pirl_core.commands import cli; cli.main(['status'])"
    code += "; print(*{m.split('.')[0] for m in sys.modules})"
    seconds = []
    for _ in range(3):
        begun = spent()
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        seconds.append(spent() - begun)
    assert HEAVY & set(done.stdout.split()) == set()
    assert min(seconds) < 1.0, seconds


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_written_for_each_shell(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command in script for command in COMMANDS)
    assert "--watch" in script or "watch" in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("pirl sta", {"status"}),
        ("pirl status --w", {"--watch"}),
        ("pirl compare metaworld-f", {"metaworld-flow_sde-0", "metaworld-flow_noise-0"}),
        ("pirl compare metaworld-sft-0 metaworld-flow_s", {"metaworld-flow_sde-0"}),
        ("pirl scale la", {"laptop"}),
        ("pirl completion z", {"zsh"}),
        ("pirl scale --params scr", {"script"}),
    ],
)
def test_bash_completes(line: str, offered: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sft", "flow_sde", "flow_noise"):
        (tmp_path / f"outputs/evaluate/metaworld-{name}-0").mkdir(parents=True)
    main(["completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    words = line.split()
    ask = (
        f"source {tmp_path}/script; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        f"_shtab_pirl pirl {words[-1]} {words[-2]}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offered, done.stderr


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scale", "--params", str(tmp_path / "absent.yaml")]) == 2
    assert main(["status", "--root", str(tmp_path / "absent")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in said] == [["pirl", "scale"], ["pirl", "status"]]
    with pytest.raises(SystemExit) as stop:
        main(["status", "--watch", "0"])
    assert stop.value.code == 2
    assert "argument --watch: give 0.1 to 86400 seconds" in capsys.readouterr().err


def test_a_reader_that_leaves_early_causes_no_noise(root: Path) -> None:
    ask = f"set -o pipefail; {sys.executable} -m pirl_core completion bash | head -n 1"
    done = subprocess.run(["bash", "-c", ask], cwd=root, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_each_command_says_what_to_do_next() -> None:
    """But for those that print a script, and those that say it by what they found."""
    assert NEXT.keys() | {"evaluate", "doctor", "serve"} == RUN.keys()
    named = {word for text in NEXT.values() for word in re.findall(r"\bpirl (\w+)", text)}
    assert named <= RUN.keys()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scale", "lpatop"], "scale = 'lpatop': no such preset; did you mean 'laptop'?"),
        (["serve", "outputs/policy/reach-sft-1"], "no such folder; did you mean 'outputs/policy/reach-sft-0'?"),
        (["export", "nothing", "out", "--to", "openpi"], "nothing: no such folder; known: outputs/policy/reach-sft-0"),
        (["plan", "--simulate", "--costs", "notes.md"], "--costs notes.md"),
    ],
)
def test_a_wrong_name_is_told_with_those_that_there_are(
    words: list[str],
    said: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(root / "params.yaml", tmp_path)
    Path("notes.md").write_text("# Notes\n\nNo costs.\n")
    Path("outputs/policy/reach-sft-0").mkdir(parents=True)
    Path("outputs/policy/reach-sft-0/config.json").write_text("{}")
    assert main(words) == 2
    told = capfd.readouterr().err
    assert said in told and told.count("\n") == 1

"""What a run records of the code it ran with."""

import subprocess
from pathlib import Path

import pytest

from pirl_core.stages.record import revision


def git(*words: str) -> str:
    own = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(["git", *own, *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "dvc.lock",
        "params.yaml",
        "results/metrics.json",
        "pirl_core/sft/train.py",
        "flows/run.py",
        "notes/dvc.lock",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    (tmp_path / ".gitignore").write_text("/outputs/\n/.pirl/\n__pycache__/\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "start")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "dirty"),
    [
        ("dvc.lock", False),
        ("results/metrics.json", False),
        ("results/new.json", False),
        ("outputs/x", False),
        ("pirl_core/__pycache__/sft.pyc", False),
        ("notes/new.txt", False),
        ("params.yaml", True),
        ("pirl_core/sft/train.py", True),
        ("pirl_core/new.py", True),
        ("flows/deep/new.py", True),
        ("notes/dvc.lock", True),
    ],
)
def test_only_what_can_change_a_result_makes_a_revision_dirty(
    path: str, dirty: bool, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = git("describe", "--always")
    assert revision() == known
    (clone / path).parent.mkdir(parents=True, exist_ok=True)
    (clone / path).write_text("2")
    # A run in a workspace apart, below the clone, tells of the same sources.
    (clone / ".pirl/runs/0").mkdir(parents=True)
    for folder in (clone, clone / ".pirl/runs/0"):
        monkeypatch.chdir(folder)
        assert revision() == known + ("-dirty" if dirty else "")


def test_it_is_what_git_says_of_a_tag_and_of_staged_and_removed_files(clone: Path) -> None:
    git("tag", "-a", "v1", "-m", "one")
    assert revision() == "v1"
    (clone / "dvc.lock").unlink()
    assert revision() == "v1"
    git("rm", "-q", "pirl_core/sft/train.py")
    assert revision() == git("describe", "--always", "--dirty") == "v1-dirty"


def test_outside_a_repository_and_before_its_first_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert revision() == "unknown"
    git("init", "-q")
    assert revision() == "unknown"
    monkeypatch.setenv("PATH", "")
    assert revision() == "unknown"

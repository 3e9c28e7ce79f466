"""At which commit a run says that its sources were."""

import subprocess
from pathlib import Path

import pytest

from pirl_core.provenance.revision import Revision, revision


def git(*words: str) -> str:
    own = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(["git", *own, *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("dvc.lock", "params.yaml", "results/laptop/metrics.json", "pirl_core/sft/train.py", "flows/run.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    (tmp_path / ".gitignore").write_text("/outputs/\n/.pirl/\n__pycache__/\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "start")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "edited"),
    [
        ("dvc.lock", False),
        ("params.yaml", False),
        ("results/laptop/metrics.json", False),
        ("results/smoke/new.json", False),
        ("outputs/x", False),
        ("tests/new.py", False),
        ("pirl_core/__pycache__/sft.pyc", False),
        ("pirl_core/sft/train.py", True),
        ("pirl_core/new.py", True),
        ("flows/deep/new.py", True),
        ("dvc.yaml", True),
    ],
)
def test_only_an_edited_source_is_told(path: str, edited: bool, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git("rev-parse", "--short=10", "HEAD")
    assert revision() == Revision(commit, None)
    (clone / path).parent.mkdir(parents=True, exist_ok=True)
    (clone / path).write_text("2")
    # A run in a workspace apart, below the clone, tells of the same sources.
    (clone / ".pirl/runs/0").mkdir(parents=True)
    for folder in (clone, clone / ".pirl/runs/0"):
        monkeypatch.chdir(folder)
        assert revision().commit == commit
        assert (revision().edits is not None) == edited


def test_the_hash_is_that_of_the_edits(clone: Path) -> None:
    """Another edit has another, the same one the same, staged or not; a removed file is one too."""
    seen = set()
    for text in ("2", "3"):
        (clone / "pirl_core/sft/train.py").write_text(text)
        before = revision().edits
        git("add", "-A")
        assert revision().edits == before
        seen.add(before)
    (clone / "pirl_core/sft/train.py").write_text("1")
    assert revision().edits is None
    git("rm", "-q", "-f", "pirl_core/sft/train.py")
    seen.add(revision().edits)
    (clone / "pirl_core").mkdir()
    for text in ("1", "2"):
        (clone / "pirl_core/new.py").write_text(text)
        seen.add(revision().edits)
    assert len(seen) == 5 and None not in seen
    assert str(revision()) == f"{revision().commit} with edits"


def test_outside_a_repository_and_before_its_first_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    unknown = Revision("unknown", None)
    assert revision() == unknown
    git("init", "-q")
    assert revision() == unknown
    monkeypatch.setenv("PATH", "")
    assert revision() == unknown

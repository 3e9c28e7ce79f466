"""At which commit the sources are, and whether they were edited since."""

import hashlib
import subprocess
from pathlib import Path
from typing import NamedTuple

SOURCES = ("pirl_core", "flows", "dvc.yaml", "pyproject.toml", ".constraints.txt")
"""What is run. What a run reads besides, params.yaml, and what it writes, dvc.lock and results/, are no sources."""


class Revision(NamedTuple):
    """commit: as git shortens it, or 'unknown' outside a repository. edits: hash of how the sources differ from it, 16
    hexadecimal digits; None where they do not."""

    commit: str
    edits: str | None

    def __str__(self) -> str:
        return f"{self.commit} with edits" if self.edits else self.commit


def revision() -> Revision:
    """That of the repository around the working folder; a source file that git does not know yet is an edit."""
    sources = [f":/{path}" for path in SOURCES]
    try:
        commit = _git("rev-parse", "--short=10", "HEAD").decode().strip()
        edits = _git("diff", "--binary", "--no-ext-diff", "--no-color", "HEAD", "--", *sources)
        unknown = _git("ls-files", "-z", "--full-name", "--others", "--exclude-standard", "--", *sources)
        root = Path(_git("rev-parse", "--show-toplevel").decode().strip())
    except (OSError, subprocess.SubprocessError):
        return Revision("unknown", None)
    for name in filter(None, unknown.split(b"\0")):
        edits += name + b"\0" + (root / name.decode()).read_bytes()
    return Revision(commit, hashlib.sha256(edits).hexdigest()[:16] if edits else None)


def _git(*words: str) -> bytes:
    # Another git may be at work: this one shall not refresh the index.
    return subprocess.run(["git", "--no-optional-locks", *words], capture_output=True, check=True, timeout=20).stdout

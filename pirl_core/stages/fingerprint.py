"""All that a stage's result depends on, as one hash: only a checkpoint that bears it may be gone on from."""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pirl_core.stages.deps import stage_sources
from pirl_core.stages.record import versions
from pirl_core.training.resume import checksum

ROOT = Path(__file__).resolve().parents[2]


def fingerprint(stage: str, parameters: dict[str, Any], inputs: Iterable[Path]) -> str:
    """Hash of parameters, input folders, the stage's source files, Python and package versions."""
    digest = hashlib.sha256(json.dumps([stage, parameters, versions(), sys.version], sort_keys=True).encode())
    sources = [ROOT / source for source in stage_sources(stage, ROOT)]
    files = [path for folder in inputs for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in (*sources, *files):
        digest.update(f"{path.parent.name}/{path.name}:{checksum(path)}".encode())
    return digest.hexdigest()[:16]

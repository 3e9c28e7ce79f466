"""All that a stage's result depends on, as one hash: only a checkpoint that bears it may be gone on from."""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pirl_core import named
from pirl_core.stages.deps import stage_sources
from pirl_core.stages.record import versions
from pirl_core.training.resume import checksum

ROOT = Path(__file__).resolve().parents[2]
PARTS = (("env", "benchmark"), ("policy", "backbone"), ("rl", "noise_rule"))
"""What params.yaml may name of somebody's own package."""


def fingerprint(stage: str, parameters: dict[str, Any], inputs: Iterable[Path]) -> str:
    """Hash of parameters, input folders, source files (of an own package too), Python and package versions."""
    digest = hashlib.sha256(json.dumps([stage, parameters, versions(), sys.version], sort_keys=True).encode())
    sources = [ROOT / source for source in stage_sources(stage, ROOT)]
    for section, key in PARTS:
        sources += named.own_sources(parameters.get(section, {}).get(key, ""))
    files = [path for folder in inputs for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in (*sources, *files):
        digest.update(f"{path.parent.name}/{path.name}:{checksum(path)}".encode())
    return digest.hexdigest()[:16]

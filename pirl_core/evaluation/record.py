"""What an evaluation by ``pirl evaluate --server`` leaves beside its episodes: what was asked of whom."""

from pathlib import Path
from typing import Any

from pirl_core.readers.text import read_json
from pirl_core.readers.typed import Open, check

RECORD = "served.json"
REMEDY = "evaluate it again, or delete its folder"


class Record(Open):
    """noise: whose, 'episode' where a rerun gives the same. params: sections env and evaluate of what was played."""

    server: str
    protocol: str
    policy: str
    noise: str
    params: dict[str, dict[str, Any]]


def read_record(path: Path) -> Record:
    """Raises UserError for a broken one."""
    return check(Record, read_json(path, REMEDY), str(path), REMEDY)

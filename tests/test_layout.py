"""The house: rooms that import downwards only, files that fit on a few screens."""

import ast
from pathlib import Path
from statistics import median

import pytest

from tests import ROOT

# What may import what: any room those below it, and those beside it on its line.
STOREYS = (
    ("__main__", "stages", "commands"),
    ("report",),
    ("evaluation", "serving"),
    ("plan",),
    ("sft", "rl", "risk"),
    ("checkpoints",),
    ("policy",),
    ("data",),
    ("training",),
    ("envs",),
    ("params",),
    ("provenance",),
    ("flow", "readers", "facts"),
    ("console", "files", "named", "seeds", "types"),
    ("errors",),
)
STOREY = {room: number for number, rooms in enumerate(STOREYS) for room in rooms}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "pirl_core").rglob("*.py")
}


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, at its top or in a function; for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pirl_core":
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_its_storey() -> None:
    assert {room(name) for name in MODULES if "." in name} == set(STOREY)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"pirl_core"}))
def test_imports_point_down(module: str) -> None:
    above = [name for name in imported(MODULES[module]) if "." in name and STOREY[room(name)] < STOREY[room(module)]]
    assert not above


def test_no_two_modules_import_each_other() -> None:
    waiting = {name: imported(path) & set(MODULES) - {name} for name, path in MODULES.items()}
    while ready := {name for name, needs in waiting.items() if not needs & waiting.keys()}:
        for name in ready:
            del waiting[name]
    assert not waiting, sorted(waiting)


def test_files_are_short_and_few_lie_loose() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "pirl_core").rglob("*.py")}
    assert median(lines.values()) <= 150
    everywhere = [*lines, *(ROOT / "flows").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    assert [path for path in everywhere if len(path.read_text(encoding="utf-8").splitlines()) > 400] == []
    assert len([path for path in lines if path.parent == ROOT / "pirl_core"]) <= 10

"""Keeps the source files in dvc.yaml: each stage depends on exactly the modules it imports, directly or not.

``python -m pirl_core.stages.deps --check`` compares, ``--write`` rewrites the lists and touches nothing else.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from pirl_core import console, named

PACKAGE = "pirl_core"
STAGES = ("curate", "sft", "rl", "evaluate", "report")


def stage_sources(stage: str, root: Path) -> list[str]:
    """Files of the package that ``pirl_core.stages.<stage>`` loads, sorted, relative to ``root``.

    Imports inside functions count, those under TYPE_CHECKING do not; so does whatever a call of ``named.part`` may find
    in the package. Files that are not Python (templates) count with the sub-package they lie in, pages for readers do
    not.
    """
    found: set[Path] = set()
    waiting = [f"{PACKAGE}.stages.{stage}"]
    while waiting:
        for path in _files(waiting.pop(), root) - found:
            found.add(path)
            waiting += _imports(ast.parse(path.read_text(encoding="utf-8")), root)
    folders = {path.parent for path in found} - {root / PACKAGE}
    data = {p for folder in folders for p in folder.iterdir() if p.is_file() and p.suffix not in (".py", ".pyc", ".md")}
    return sorted(path.relative_to(root).as_posix() for path in found | data)


def _files(module: str, root: Path) -> set[Path]:
    """The module's file and the ``__init__`` of every package above it, which run first; empty if it is no module."""
    parts = module.split(".")
    path = root.joinpath(*parts)
    own = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not own.is_file():
        return set()
    above = (root.joinpath(*parts[:n]) / "__init__.py" for n in range(1, len(parts)))
    return {own, *(init for init in above if init.is_file())}


def _imports(tree: ast.AST, root: Path) -> Iterator[str]:
    """Modules of the package named in import statements; ``from a import b`` means a.b where that is a module."""
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise SystemExit(f"relative import in line {node.lineno}: write the full name, the walker needs it")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield str(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "named.part":
            home, module = getattr(named, ast.unparse(node.args[0]).split(".")[1]), node.args[2:]
            last = [str(ast.literal_eval(argument)) for argument in module]
            yield from (".".join([home, name, *last]) for name in named.known(home, *last))


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Every node except what stands under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _executed(child)


def with_sources(text: str, root: Path) -> str:
    """dvc.yaml with the source files of every stage put right; comments and all other lines stay."""
    for stage in STAGES:
        body = re.search(rf"^  {stage}:\n(?:(?:    .*)?\n)*", text, re.MULTILINE)
        deps = body and re.search(r"^    deps:.*\n(?:      .*\n)*", body[0], re.MULTILINE)
        if not body or not deps:
            raise SystemExit(f"dvc.yaml: stage {stage} needs a block 'deps:'")
        kept = [line for line in deps[0].splitlines()[1:] if not line.startswith(f"      - {PACKAGE}/")]
        lines = ["    deps:", *kept, *(f"      - {path}" for path in stage_sources(stage, root))]
        start, end = body.start() + deps.start(), body.start() + deps.end()
        text = text[:start] + "\n".join(lines) + "\n" + text[end:]
    return text


def main() -> int:
    console.speak()
    parser = argparse.ArgumentParser(prog="python -m pirl_core.stages.deps", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="exit with 1 if dvc.yaml and the imports differ")
    action.add_argument("--write", action="store_true", help="rewrite the lists in dvc.yaml")
    args = parser.parse_args()
    root = Path(__file__).resolve().parents[2]
    path = root / "dvc.yaml"
    old = path.read_text(encoding="utf-8")
    new = with_sources(old, root)
    if args.write:
        path.write_text(new, encoding="utf-8")
    elif new != old:
        print("dvc.yaml: deps differ from the imports; run python -m pirl_core.stages.deps --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Which code a stage runs, and a digest of what that code does.

Comments, docstrings, formatting and types for checkers do not count, nor does what only checks, tells or starts
processes (``UNCOUNTED``). Of benchmarks, model families and noise rules only the chosen ones count.
"""

import ast
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from pirl_core import named

PACKAGE = "pirl_core"
HOMES = {"benchmarks": named.BENCHMARKS, "backbones": named.FAMILIES, "noise_rules": named.RULES}
"""What a stage chooses among, and where the project's own lie."""
WORLDS = "worlds"
UNCOUNTED = (
    # Words for people.
    "console", "errors", "evaluation.videos", "training.events", "training.gif", "training.track",
    # Whether there is such a thing, and whether it is whole: what is read counts as a value or as an input file.
    "named", "params.errors", "params.file", "params.merging", "params.preset", "params.sections", "envs.assets",
    "envs.damage", "readers.hub", "readers.paths", "readers.strict_yaml", "readers.text", "readers.typed",
    "readers.variables", "readers.yaml_faults",
    # How processes start and end, and this record of theirs.
    "stages", "provenance", "training.rendezvous", "envs.vector.cluster", "envs.vector.placing",
    "envs.vector.world",
)  # fmt: skip
"""Modules and rooms that change no number; the stage's own module counts all the same."""
# Pages for readers, and what Python leaves.
_NO_DATA = (".md", ".py", ".pyc")
_NO_FORM = ("ctx", "kind", "type_comment")
_TELLING = (ast.Import, ast.ImportFrom, ast.Call, ast.Constant)
_MODULE = re.compile(rf"{PACKAGE}(?:\.[a-z_]\w*)+")


class Code(NamedTuple):
    """files: path as ``pirl_core/flow/noise.py`` → digest of what it does, 16 hexadecimal digits; of a file that is not
    Python, of its bytes. packages: top-level modules of others that these import."""

    files: dict[str, str]
    packages: frozenset[str]

    @property
    def digest(self) -> str:
        """Of all files, 16 hexadecimal digits."""
        return _hash("".join(f"{path} {digest}\n" for path, digest in sorted(self.files.items())).encode())


class _Source(NamedTuple):
    """One file. imports: modules that it may load. parts: calls of ``named.part``, as (home, module)."""

    digest: str
    imports: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]


def code_of(stage: str, parts: Mapping[str, Sequence[str]], root: Path) -> Code:
    """What ``pirl_core.stages.<stage>`` below ``root`` loads, in functions too.

    parts: the chosen benchmarks, backbones and noise rules (``HOMES``), by short or dotted names, and ``WORLDS``,
    packages that register what is simulated; a package of somebody's own is looked for where Python would. Files
    that are not Python count with the package they lie in.
    """
    chosen = {home: parts.get(kind, ()) for kind, home in HOMES.items()}
    roots = {
        PACKAGE: root,
        **{
            name.split(".")[0]: _root_of(name)
            for kind, names in parts.items()
            for name in names
            if "." in name or kind == WORLDS
        },
    }
    files: dict[str, str] = {}
    packages: set[str] = set()
    start = f"{PACKAGE}.stages.{stage}"
    waiting, seen = [start, *parts.get(WORLDS, ())], set[str]()
    while waiting:
        module = waiting.pop()
        top = module.split(".")[0]
        if module in seen or (module != start and _is_uncounted(module)):
            continue
        seen.add(module)
        if (home := roots.get(top)) is None:
            packages.add(top)
            continue
        for name, path in _files(module, home):
            if name != start and _is_uncounted(name):
                continue
            source = _read(path, name)
            files[path.relative_to(home).as_posix()] = source.digest
            waiting += source.imports
            for kind, last in source.parts:
                waiting += [named.where(kind, one, last) for one in chosen[kind]]
            # Beside a module that is in no package may lie anything, the whole working folder's files.
            if path.parent not in (home, home / PACKAGE):
                files |= _data(path.parent, home)
    return Code(files, frozenset(packages))


def _is_uncounted(module: str) -> bool:
    return any(f"{module}.".startswith(f"{PACKAGE}.{name}.") for name in UNCOUNTED)


def _root_of(name: str) -> Path | None:
    """The folder from which a package or module of somebody's own is imported."""
    spec = find_spec(name.split(".")[0])
    if spec is None:
        return None
    folders = spec.submodule_search_locations
    return Path(next(iter(folders)) if folders else str(spec.origin)).parent


# A process looks at each file once: there are hundreds of stages at paper scale, of much the same code.
@cache
def _files(module: str, root: Path) -> list[tuple[str, Path]]:
    """The module's file and the ``__init__`` of every package above it, which run first; none if it is no module."""
    parts = module.split(".")
    path = root.joinpath(*parts)
    own = [file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()]
    above = [(".".join(parts[:n]), root.joinpath(*parts[:n]) / "__init__.py") for n in range(1, len(parts))]
    return [(module, own[0]), *(pair for pair in above if pair[1].is_file())] if own else []


@cache
def _data(folder: Path, root: Path) -> dict[str, str]:
    """Files of the folder that are not Python, with the digest of their bytes."""
    return {
        path.relative_to(root).as_posix(): _hash(path.read_bytes())
        for path in folder.iterdir()
        if path.is_file() and path.suffix not in _NO_DATA and not path.name.startswith(".")
    }


@cache
def _read(path: Path, module: str) -> _Source:
    return _parsed(path.read_bytes(), module, path.name == "__init__.py")


def _parsed(content: bytes, module: str, is_package: bool) -> _Source:
    told: list[ast.AST] = []
    form = _form(ast.parse(content), told)
    package = module.split(".") if is_package else module.split(".")[:-1]
    imports: list[str] = []
    parts: list[tuple[str, str]] = []
    for node in told:
        match node:
            case ast.Import():
                imports += [alias.name for alias in node.names]
            case ast.ImportFrom():
                above = package[: len(package) + 1 - node.level] if node.level else []
                origin = ".".join([*above, *([node.module] if node.module else [])])
                # ``from a import b`` means a.b where that is a module.
                imports += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="named"), attr="part"),
                args=[ast.Attribute(attr=home), _, *last],
            ):
                parts.append((getattr(named, home), ".".join(str(ast.literal_eval(word)) for word in last)))
            case ast.Constant(value=str(text)):
                # Workers are started by a line of Python that names their module.
                imports += _MODULE.findall(text)
    return _Source(_hash(form.encode()), tuple(imports), tuple(parts))


def _form(node: Any, told: list[ast.AST]) -> str:
    """The tree as text, the same in every version of Python: what is empty, which newer ones add, is left out, and so
    are docstrings, those below attributes too, and what stands under ``if TYPE_CHECKING``.

    told: gets the nodes that may say what else is loaded.
    """
    if isinstance(node, list):
        return f"[{','.join([_form(one, told) for one in node if not _is_idle(one)])}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, _TELLING):
        told.append(node)
    inside = []
    for name in node._fields:
        value = getattr(node, name, None)
        if value is not None and value != [] and name not in _NO_FORM:
            inside.append(f"{name}={_form(value, told)}")
    return f"{type(node).__name__}({','.join(inside)})"


def _is_idle(node: Any) -> bool:
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"), orelse=[]):
            return True
    return False


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]

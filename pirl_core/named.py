"""Parts found by name: a benchmark, a model family, a noise rule.

A short name is a folder or file of the project's own, a dotted one a package or module of anybody's: the one way in
which either is added, with no list to extend.
"""

import ast
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

BENCHMARKS = "pirl_core.envs"
RULES = "pirl_core.flow.rules"
FAMILIES = "pirl_core.policy.families"
NAME = re.compile(r"(?!_)[A-Za-z_]\w*(\.(?!__)\w+)*", re.ASCII)


def part(home: str, name: str, module: str = "") -> ModuleType:
    """``module`` of the package, or the package itself, that ``name`` stands for among ``home``.

    Raises LookupError, in words, where there is none; what goes wrong inside it is raised as it is.
    """
    place = where(home, name, module)
    try:
        return import_module(place)
    except ModuleNotFoundError as error:
        if error.name and f"{place}.".startswith(f"{error.name}."):
            raise LookupError(lacking(home, name, module)) from None
        raise


def exists(home: str, name: str, module: str = "") -> bool:
    """Whether ``part`` would find it; loads the packages above it alone."""
    try:
        return find_spec(where(home, name, module)) is not None
    except (LookupError, ModuleNotFoundError, ValueError):
        return False


def defines(home: str, name: str, function: str) -> bool:
    """Whether the module's source has the function; reads it and runs nothing of it, but the packages above it."""
    spec = find_spec(where(home, name, ""))
    source = Path(str(spec.origin)).read_bytes() if spec and spec.has_location else b""
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in ast.parse(source).body)


def known(home: str, module: str = "") -> list[str]:
    """The project's own short names, in alphabetical order."""
    folder = Path(str(import_module(home).__file__)).parent
    if module:
        return sorted(path.parent.name for path in folder.glob(f"*/{module}.py"))
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def lacking(home: str, name: str, module: str = "") -> str:
    """What is wrong with a name that ``part`` does not find; the known ones are for whoever prints it to add."""
    if "." in name and NAME.fullmatch(name):
        return f"no module {where(home, name, module)} can be imported; install it, or put its folder on PYTHONPATH"
    return f"unknown name '{name}'"


def where(home: str, name: str, module: str) -> str:
    """The module's full name. Raises LookupError for what is no name of one."""
    if not NAME.fullmatch(name):
        raise LookupError(lacking(home, name, module))
    package = name if "." in name else f"{home}.{name}"
    return f"{package}.{module}" if module else package

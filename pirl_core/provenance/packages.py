"""Versions of the packages that a stage loads: those it imports and all that these require."""

import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version

PROJECT = "pirl_core"


def versions(modules: Iterable[str], extras: Iterable[str] = ()) -> dict[str, str]:
    """Distribution → version, in alphabetical order; those that are not installed are left out.

    modules: top-level ones, as they are imported; Python's own do not count. extras: names of pyproject.toml, of which
    all count, since a simulator that is no package loads its own; other names stand for none.
    """
    found: dict[str, str] = {}
    names = _distributions()
    waiting = [name for module in modules if module not in sys.stdlib_module_names for name in names.get(module, ())]
    waiting += [name for extra in extras for name in _required(PROJECT, extra)]
    while waiting:
        name = _canonical(waiting.pop())
        if name in found:
            continue
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
        waiting += _required(name)
    return dict(sorted(found.items()))


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


@cache
def _required(name: str, extra: str = "") -> list[str]:
    """What a distribution needs on this machine: without its extras, or of one what it adds."""
    from packaging.requirements import InvalidRequirement, Requirement

    found = []
    try:
        lines = requires(name) or []
    except PackageNotFoundError:  # run from its folder, not installed
        lines = []
    for line in lines:
        try:
            needed = Requirement(line)
        except InvalidRequirement:
            continue
        always, then = (needed.marker is None or needed.marker.evaluate({"extra": name}) for name in ("", extra))
        if then and not (extra and always):
            found.append(needed.name)
    return found


def _canonical(name: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)

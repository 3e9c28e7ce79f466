"""What a machine would simulate with: versions of packages, and a digest of the assets."""

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version

from pirl_core.envs import assets
from pirl_core.facts import facts_of
from pirl_core.provenance.packages import versions

World = dict[str, str]
"""What → version or digest; what is not there is left out."""
_PACKAGES = {
    "calvin": ("gym", "numpy-quaternion", "pybullet"),
    "gymnasium": ("gymnasium", "mujoco"),
    "libero": ("bddl", "hf-libero", "mujoco", "robosuite"),
    "maniskill": ("mani_skill", "sapien"),
    "metaworld": ("gymnasium", "metaworld", "mujoco"),
}
"""Which may have a say in the numbers of the benchmarks with these assets, or of this name."""


def packages_of(benchmark: str) -> list[str]:
    """Those that may have a say in its numbers; of somebody's own, all that it asks for on this machine."""
    known = _PACKAGES.get(facts_of(benchmark).assets or benchmark)
    return ["numpy", *(known or versions([benchmark.split(".")[0]]))]


def world_of(packages: list[str], benchmark: str) -> World:
    """Of this machine. Assets are compared by the names and sizes of their files."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    needed = facts_of(benchmark).assets
    if needed and not assets.missing(needed):
        root = assets.root(needed)
        files = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
        lines = [f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n" for path in files]
        found["assets"] = hashlib.sha256("".join(lines).encode()).hexdigest()[:16]
    return found

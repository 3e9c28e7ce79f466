"""Small fixtures that several test files share."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pirl_core.params.preset import preset_text
from tests import ROOT

# Two cores are shared with the simulator's workers, and one thread adds numbers in one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# Assets that lie beside the checkout serve where no variable names others.
for variable, folder in {"PIRL_LIBERO_ASSETS": "libero/assets", "PIRL_MANISKILL_ASSETS": "maniskill"}.items():
    if (beside := ROOT.parent / "shared" / "data" / folder).is_dir():
        os.environ.setdefault(variable, str(beside))


@pytest.fixture(autouse=True)
def own_precision() -> None:
    """Accelerate lets a process have one precision; here each test has its own."""
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/ as git has it, staged changes included: a run of one's own leaves others in the working tree."""
    git = ("git", "-C", str(ROOT))
    listed = subprocess.run([*git, "ls-files", "results"], capture_output=True, text=True, check=False)
    if not listed.stdout:
        pytest.skip("no git repository")
    folder = tmp_path_factory.mktemp("committed")
    subprocess.run([*git, "checkout-index", f"--prefix={folder}/", "--", *listed.stdout.splitlines()], check=True)
    return folder / "results"


@pytest.fixture(scope="session")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid parameter file, small."""
    path = tmp_path_factory.mktemp("preset") / "params.yaml"
    path.write_text(preset_text("smoke"))
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB of its own, to be filled."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)

"""Small fixtures that several test files share."""

import os
from pathlib import Path

import pytest

# Two cores are shared with the simulator's workers, and one thread adds numbers in one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def preset() -> Path:
    """A valid parameter file, small."""
    return ROOT / "pirl_core" / "presets" / "smoke.yaml"

"""Where the tests find LIBERO: its packages, and its assets by the variable or beside the repository."""

import importlib.util
import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[2] / "shared" / "data" / "libero" / "assets"
PACKAGES = all(importlib.util.find_spec(name) for name in ("libero", "robosuite", "bddl"))

if "PIRL_LIBERO_ASSETS" not in os.environ and BESIDE.is_dir():
    os.environ["PIRL_LIBERO_ASSETS"] = str(BESIDE)

needs_package = pytest.mark.skipif(not PACKAGES, reason="packages libero, robosuite and bddl are not installed")
needs_assets = pytest.mark.skipif(
    not PACKAGES or "PIRL_LIBERO_ASSETS" not in os.environ,
    reason="LIBERO's packages or assets are missing: set PIRL_LIBERO_ASSETS",
)

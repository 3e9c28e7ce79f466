"""Whether LIBERO's packages and assets are here."""

import importlib.util
import os

import pytest

PACKAGES = all(importlib.util.find_spec(name) for name in ("libero", "robosuite", "bddl"))

needs_package = pytest.mark.skipif(not PACKAGES, reason="packages libero, robosuite and bddl are not installed")
needs_assets = pytest.mark.skipif(
    not PACKAGES or "PIRL_LIBERO_ASSETS" not in os.environ,
    reason="LIBERO's packages or assets are missing: set PIRL_LIBERO_ASSETS",
)

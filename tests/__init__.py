"""Tests, in folders that mirror those of `pirl_core`."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""

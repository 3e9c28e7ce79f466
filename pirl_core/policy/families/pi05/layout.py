"""The names of published π0.5 weights: those of π0."""

from pirl_core.policy.families.pi0.layout import LEROBOT_TIES, OPENPI_TIES, lerobot_names, openpi_names

READS = {"openpi_pi05": (openpi_names, OPENPI_TIES), "lerobot_pi05": (lerobot_names, LEROBOT_TIES)}
"""By layout of published weights: its key map, and what to read a tied tensor from where its own key is not there."""

"""Names of published checkpoints' tensors, and ours; one module a family."""

STEM = ("pirl_stem.", "stem.")
"""In every layout: theirs and ours of the convolutional stem, which no published model has."""

BESIDE = {
    "value_head": "a critic",
    "noise_head": "a noise net",
    "reinflow_explore_noise_net": "a noise net",
    "normalize_inputs": "statistics",
    "normalize_targets": "statistics",
    "unnormalize_outputs": "statistics",
}
"""Modules that others keep among the weights and that are no part of the network: what RLinf's RL adds to π0, π0.5 and
(inside the action head) GR00T, and means and deviations, which LeRobot kept there until late in 2025 and in files of
its processors since then. Those belong to a dataset: of several, smolvla_base carries those of each."""


def beside(key: str) -> str | None:
    """The module of ``BESIDE`` that a checkpoint's key belongs to, whatever it is wrapped in; None for all others."""
    return next((part for part in key.split(".") if part in BESIDE), None)

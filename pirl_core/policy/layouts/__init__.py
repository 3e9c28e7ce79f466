"""Names of published checkpoints' tensors, and ours; one module a family."""

STEM = ("pirl_stem.", "stem.")
"""In every layout: theirs and ours of the convolutional stem, which no published model has."""

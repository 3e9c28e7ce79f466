"""Where the results of a scale lie."""

from pathlib import Path

from pirl_core.params.file import load_params

RESULTS = Path("results")


def results_of(scale: str | None = None) -> Path:
    """``results/<scale>``; None: the scale of params.yaml. Raises UserError where that file cannot be read."""
    return RESULTS / (scale or load_params().scale)

"""Where the results of a scale lie."""

from pathlib import Path

from pirl_core.params.file import load_params

RESULTS = Path("results")


def results_of(scale: str | None = None, root: Path = Path()) -> Path:
    """``results/<scale>`` below ``root``; None: that of its params.yaml. Raises UserError where it cannot be read."""
    return root / RESULTS / (scale or load_params(root / "params.yaml").scale)

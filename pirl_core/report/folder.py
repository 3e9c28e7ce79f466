"""Where the results of a scale lie."""

import re
from pathlib import Path

from pirl_core.errors import UserError
from pirl_core.readers.strict_yaml import read_yaml

RESULTS = Path("results")


def results_of(scale: str | None = None, root: Path = Path()) -> Path:
    """``results/<scale>`` below ``root``; None: that of its params.yaml. Raises UserError where it cannot be read."""
    # Not with the whole check, which would take longer than to print a table.
    scale = scale or str(read_yaml(root / "params.yaml").get("scale"))
    if not re.fullmatch(r"\w+", scale, re.ASCII):
        raise UserError(f"scale = {scale!r}: must be a plain name, since results/ has a folder of it")
    return root / RESULTS / scale

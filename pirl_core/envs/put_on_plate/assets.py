"""Put-on-plate's models and pictures (``pirl_core.assets`` fetches them)."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from pirl_core.assets import find
from pirl_core.errors import UserError

Kind = Literal["carrot", "plate", "table"]


def folder(kind: Kind) -> Path:
    return find("maniskill") / "carrot" / f"more_{kind}"


@cache
def models(kind: Kind) -> Mapping[str, Any]:
    """The folder's entries by file or folder name, in the order of ``names``. Raises UserError for a damaged list."""
    path = folder(kind) / "model_db.json"
    try:
        entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); download it again") from error
    return entries


def key(kind: Kind, number: int) -> str:
    """Name of the number-th entry's file or folder."""
    return list(models(kind))[number]


@cache
def picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8. Raises UserError where the file is no picture."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path} is no readable picture ({error}); download it again") from error


def table(number: int) -> np.ndarray:
    """Photograph of a table."""
    return picture(folder("table") / "imgs" / key("table", number))


def texture(number: int) -> np.ndarray:
    """The texture beside that photograph."""
    return picture(folder("table") / "textures" / models("table")[key("table", number)]["texture"])

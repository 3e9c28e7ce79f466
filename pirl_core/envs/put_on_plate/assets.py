"""Put-on-plate's models and pictures (``pirl_core.envs.assets`` fetches them)."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pirl_core.envs.assets import find
from pirl_core.errors import UserError
from pirl_core.readers.pictures import decode_picture
from pirl_core.readers.text import read_bytes, read_json

AGAIN = "download it again"
Kind = Literal["carrot", "plate", "table"]


def folder(kind: Kind) -> Path:
    return find("maniskill") / "carrot" / f"more_{kind}"


@cache
def models(kind: Kind) -> Mapping[str, Any]:
    """The folder's entries by file or folder name, in the order of ``names``. Raises UserError for a damaged list."""
    return read_json(folder(kind) / "model_db.json", AGAIN)


def key(kind: Kind, number: int) -> str:
    """Name of the number-th entry's file or folder."""
    return list(models(kind))[number]


@cache
def picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8. Raises UserError where the file is no picture."""
    try:
        return np.asarray(decode_picture(read_bytes(path, AGAIN)).convert("RGB"))
    except ValueError as error:
        raise UserError(f"{path}: {error}; {AGAIN}") from None


def table(number: int) -> np.ndarray:
    """Photograph of a table."""
    return picture(folder("table") / "imgs" / key("table", number))


def texture(number: int) -> np.ndarray:
    """The texture beside that photograph."""
    return picture(folder("table") / "textures" / models("table")[key("table", number)]["texture"])

"""Where put-on-plate's models and pictures lie, and what to do where they are missing."""

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from pirl_core.errors import UserError

VARIABLE = "PIRL_PUT_ON_PLATE_ASSETS"
DOWNLOAD = "hf download --repo-type dataset RLinf/maniskill_assets --local-dir DIR"
ROBOT = "python -m mani_skill.utils.download_asset widowx250s"
BRIDGE = "python -m mani_skill.utils.download_asset bridge_v2_real2sim"

Kind = Literal["carrot", "plate", "table"]


def folder(kind: Kind) -> Path:
    """Raises UserError where the variable or the folder is missing."""
    root = os.environ.get(VARIABLE, "")
    path = Path(root) / "carrot" / f"more_{kind}"
    if not root or not (path / "model_db.json").is_file():
        said = f"{path} has no model_db.json" if root else f"{VARIABLE} is not set"
        raise UserError(f"put-on-plate's assets are missing ({said}): {DOWNLOAD}, then set {VARIABLE}=DIR")
    return path


@cache
def models(kind: Kind) -> Mapping[str, Any]:
    """The folder's entries by file or folder name, in the order of ``names``."""
    entries: dict[str, Any] = json.loads((folder(kind) / "model_db.json").read_text(encoding="utf-8"))
    return entries


def key(kind: Kind, number: int) -> str:
    """Name of the number-th entry's file or folder."""
    return list(models(kind))[number]


def bridge(part: str) -> Path:
    """A file that mani_skill's download brings, under MS_ASSET_DIR. Raises UserError where it is missing."""
    root = os.environ.get("MS_ASSET_DIR") or str(Path.home() / ".maniskill")
    path = Path(root) / "data" / part
    if not path.is_file():
        command = ROBOT if part.startswith("robots") else BRIDGE
        raise UserError(f"{path} is missing: run {command}, or set MS_ASSET_DIR to the folder whose data/ holds it")
    return path


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

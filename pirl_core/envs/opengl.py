"""Which OpenGL back end draws without a display. Imports no mujoco: mujoco reads MUJOCO_GL when it is imported."""

import ctypes.util
import os

from pirl_core.errors import UserError

LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
REMEDY = "run apt-get install -y libegl1 libgl1-mesa-dri libosmesa6"


def installed() -> list[str]:
    """Back ends whose library is installed, the preferred one first."""
    return [name for name, library in LIBRARIES.items() if ctypes.util.find_library(library) is not None]


def prefer() -> None:
    """Set MUJOCO_GL to egl, or osmesa without egl, unless the user chose; must run before mujoco is imported."""
    if not os.environ.get("MUJOCO_GL"):
        os.environ["MUJOCO_GL"] = (installed() or ["egl"])[0]


def chosen() -> str:
    """The back end MUJOCO_GL names. Raises UserError when it cannot draw without a display or is not installed."""
    name = os.environ.get("MUJOCO_GL", "").lower()
    if name not in LIBRARIES:
        raise UserError(f"MUJOCO_GL={name} cannot draw without a display; set it to egl or osmesa, or unset it")
    if name not in installed():
        raise UserError(f"MUJOCO_GL={name}, but lib{LIBRARIES[name]} is not installed: {REMEDY}")
    return name

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
    """The back end MUJOCO_GL names. Raises UserError when it cannot draw without a display, is not installed, or
    PYOPENGL_PLATFORM names another one.
    """
    name = os.environ.get("MUJOCO_GL", "").lower()
    if name not in LIBRARIES:
        raise UserError(f"MUJOCO_GL={name} cannot draw without a display; set it to egl or osmesa, or unset it")
    if name not in installed():
        raise UserError(f"MUJOCO_GL={name}, but lib{LIBRARIES[name]} is not installed: {REMEDY}")
    platform = os.environ.get("PYOPENGL_PLATFORM", "")
    if platform and platform.lower() != name:
        raise UserError(f"PYOPENGL_PLATFORM={platform}, but MUJOCO_GL={name}; unset it")
    return name


def require_device(count: int) -> None:
    """Raises UserError unless MUJOCO_EGL_DEVICE_ID, where it is set, is one of ``count`` EGL devices."""
    text = os.environ.get("MUJOCO_EGL_DEVICE_ID")
    if text is not None and text not in map(str, range(count)):
        there = f"set it to 0 to {count - 1}, or unset it" if count > 1 else "there is only 0; unset it"
        raise UserError(f"MUJOCO_EGL_DEVICE_ID={text}: no such EGL device; {there if count else 'there is none'}")

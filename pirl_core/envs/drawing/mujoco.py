"""Frames from MuJoCo without a display.

Frames of a film leave out shadows and reflections; in fast frames what is heavy is drawn with fewer faces, too. The
physics model is never touched: a drawing has its own copy of model and data.
"""

import atexit
import copy
import functools
import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import mujoco
import numpy as np

from pirl_core.envs.drawing import opengl
from pirl_core.errors import UserError, first_line

MAX_GEOMS = 1000
EDITED = (
    "body_pos", "body_quat", "site_pos", "site_rgba", "cam_pos", "cam_quat", "mat_rgba", "geom_rgba", "light_diffuse",
    "light_dir",
)  # fmt: skip
"""Every model array that resets, steps and visual shifts write."""
Detail = Literal["fast", "film", "full"]
"""In software OpenGL shadows take three quarters of a full frame, and faces and smooth edges most of a film's."""


class Look(NamedTuple):
    """How the scenes of a benchmark are drawn.

    lighten: takes faces from the copied model for fast frames. upright: (camera, pixels (H, W, 3) with the bottom row
    first, as OpenGL has them) → the view as it is shown. hidden: groups of geoms that are not drawn.
    """

    lighten: Callable[[mujoco.MjModel], None]
    upright: Callable[[str, np.ndarray], np.ndarray]
    hidden: tuple[int, ...] = ()


class Scene(Protocol):
    """What can be drawn. xml: the file that its model was made from."""

    xml: str
    model: mujoco.MjModel
    data: mujoco.MjData
    look: Look


def _gl_context(size: int) -> Any:
    """A new OpenGL context, made current. Raises UserError when OpenGL does not work here."""
    backend = opengl.chosen()
    # llvmpipe otherwise starts a thread per core in each worker process.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        if backend == "egl":
            from mujoco.egl import egl_ext

            opengl.require_device(len(egl_ext.eglQueryDevicesEXT()))
        context = importlib.import_module(f"mujoco.{backend}").GLContext(size, size)
        context.make_current()
    except UserError:
        raise
    except Exception as error:  # the bindings raise many kinds: ImportError, AttributeError, GLError, RuntimeError
        others = " or ".join(name for name in opengl.LIBRARIES if name != backend)
        raise UserError(
            f"MUJOCO_GL={backend} fails ({first_line(error)}): {opengl.REMEDY}, or set it to {others}"
        ) from error
    return context


class _Drawing:
    """Model copy, scene and OpenGL resources shared by all slots whose tasks have the same XML."""

    def __init__(self, model: mujoco.MjModel, look: Look, size: int, detail: Detail):
        self.look = look
        # An own OpenGL context each: several MjrContexts in one disturb each other's state.
        self.gl = _gl_context(size)
        self.model = copy.copy(model)
        self.model.vis.global_.offwidth = size
        self.model.vis.global_.offheight = size
        if detail != "full":
            self.model.vis.quality.shadowsize = 0
        if detail == "fast":
            self.model.vis.quality.offsamples = 0
            # Fewer facets for spheres, cylinders and boxes: vertices, not pixels, cost the time in software OpenGL.
            self.model.vis.quality.numslices = 8
            self.model.vis.quality.numstacks = 6
            self.model.vis.quality.numquads = 1
            look.lighten(self.model)
        self.data = mujoco.MjData(self.model)
        self.option = mujoco.MjvOption()
        self.option.geomgroup[list(look.hidden)] = 0
        self.perturbation = mujoco.MjvPerturb()
        self.camera = mujoco.MjvCamera()
        self.camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self.scene = mujoco.MjvScene(self.model, MAX_GEOMS)
        if detail != "full":
            self.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            self.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self.context = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        self.viewport = mujoco.MjrRect(0, 0, size, size)
        self.pixels = np.empty((size, size, 3), np.uint8)

    def pose(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        for name in EDITED:
            getattr(self.model, name)[:] = getattr(model, name)
        self.data.qpos[:] = data.qpos
        self.data.mocap_pos[:] = data.mocap_pos
        self.data.mocap_quat[:] = data.mocap_quat
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def frame(self, camera: str) -> np.ndarray:
        self.camera.fixedcamid = self.model.camera(camera).id
        mujoco.mjv_updateScene(
            self.model,
            self.data,
            self.option,
            self.perturbation,
            self.camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self.scene,
        )
        mujoco.mjr_render(self.viewport, self.scene, self.context)
        mujoco.mjr_readPixels(self.pixels, None, self.viewport, self.context)
        return self.look.upright(camera, self.pixels)


class Renderer:
    """Draws any slot of this process. Holds one drawing per (XML, size, detail)."""

    def __init__(self) -> None:
        self._drawings: dict[tuple[str, int, Detail], _Drawing] = {}

    def close(self) -> None:
        """Free the OpenGL resources, each in its own context."""
        for drawing in self._drawings.values():
            drawing.gl.make_current()
            drawing.context.free()
            drawing.gl.free()
        self._drawings = {}

    def frames(self, env: Scene, cameras: Sequence[str], size: int, detail: Detail) -> np.ndarray:
        """(C, size, size, 3) uint8, upright, one image per camera name. Raises UserError when OpenGL is missing."""
        images = np.empty((len(cameras), size, size, 3), np.uint8)
        if not cameras:
            return images
        key = (env.xml, size, detail)
        if key not in self._drawings:
            self._drawings[key] = _Drawing(env.model, env.look, size, detail)
            if len(self._drawings) == 1:
                # Registered after the backend's own clean-up (by its first context), so it runs before that.
                atexit.register(self.close)
        drawing = self._drawings[key]
        drawing.gl.make_current()
        drawing.pose(env.model, env.data)
        for image, camera in zip(images, cameras, strict=True):
            image[:] = drawing.frame(camera)
        return images


@functools.cache
def renderer() -> Renderer:
    """One a process: simulators of equal tasks share what OpenGL holds of them."""
    return Renderer()

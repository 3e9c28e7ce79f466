"""Distribution shifts of the evaluation, drawn from the episode's seed."""

import mujoco
import numpy as np
from gymnasium.spaces import Box

BOX_GROWTH = 1.25
CAMERA_OFFSET = 0.04
"""Largest camera displacement per axis, in metres."""

FIXED_CAMERAS = ("corner2", "corner3")
SCENERY = ("basic_floor", "table_wood", "wall_metal")


def draw_outside(box: Box, rng: np.random.Generator) -> np.ndarray:
    """A start vector (D,), D 3 or 6, from the task's box grown by 1.25 about its centre, but outside the box itself.

    The vector holds one or two positions x, y, z. It is redrawn until a horizontal coordinate lies outside the original
    box; heights keep to the box, so that nothing starts inside the table.
    """
    horizontal = np.arange(box.low.size) % 3 != 2
    growth = np.where(horizontal, BOX_GROWTH, 1.0)
    centre, half = (box.low + box.high) / 2, (box.high - box.low) / 2
    while True:
        vector: np.ndarray = rng.uniform(centre - growth * half, centre + growth * half)
        if (((vector < box.low) | (vector > box.high)) & horizontal).any():
            return vector


def perturb_looks(model: mujoco.MjModel, rng: np.random.Generator) -> None:
    """Other lights, other colours of floor, table and walls, a moved camera. Physics is untouched."""
    model.light_diffuse[:] = model.light_diffuse * rng.uniform(0.4, 1.8, (model.nlight, 1)) * rng.uniform(0.7, 1.3, 3)
    direction = model.light_dir + rng.uniform(-0.4, 0.4, (model.nlight, 3))
    model.light_dir[:] = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    for name in SCENERY:
        material = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_MATERIAL, name)
        if material >= 0:  # the table with a hole has no low wall around it
            model.mat_rgba[material, :3] *= rng.uniform(0.35, 1.0, 3)
    for name in FIXED_CAMERAS:
        model.cam_pos[model.camera(name).id] += rng.uniform(-CAMERA_OFFSET, CAMERA_OFFSET, 3)

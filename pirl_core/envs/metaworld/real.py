"""The shift ``real``: the same tasks in a second world that stands for a real robot's (RL-Co, arXiv 2602.12628).

It differs from the simulated one as a laboratory does from its model: looks, camera, friction, and how the arm is
calibrated. Unlike the other shifts it is one world, equal in every episode; starts are drawn as with ``none``.
"""

import math

import mujoco
import numpy as np

from pirl_core.envs.metaworld.shifts import FIXED_CAMERAS, SCENERY

LIGHT = (0.75, 0.6, 0.45)
"""Factors of red, green and blue of all lights."""
COLOURS = ((0.5, 0.6, 0.7), (0.9, 0.65, 0.5), (0.6, 0.8, 0.6))
"""The same of floor, table and walls."""
CAMERA = (0.03, -0.04, 0.03)
"""How far the fixed cameras stand elsewhere, in m."""
FRICTION, DAMPING = 0.6, 1.5
"""Factors of sliding friction, and of the damping of what is no robot's joint."""
PHYSICS = ("geom_friction", "dof_damping")
"""Model arrays that they are in."""
GAIN, TURN = (0.9, 0.9, 0.9), math.radians(30)
"""Of the hand's displacements: what of them is done along x, y, z, after a turn about the vertical axis."""
GRIPPER = 0.9
"""What is read of the gripper's opening."""
OFFSET = (0.02, -0.02, 0.01)
"""By how much objects and goal are seen beside where they are, in m."""


def enter(model: mujoco.MjModel) -> None:
    """Looks and physics of the other world; of a pristine model."""
    model.light_diffuse[:] = model.light_diffuse * LIGHT
    for name, colour in zip(SCENERY, COLOURS, strict=True):
        material = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_MATERIAL, name)
        if material >= 0:  # the table with a hole has no low wall around it
            model.mat_rgba[material, :3] *= colour
    for name in FIXED_CAMERAS:
        model.cam_pos[model.camera(name).id] += CAMERA
    model.geom_friction[:, 0] *= FRICTION
    robot = model.body_rootid[model.body("right_hand").id]
    model.dof_damping[model.body_rootid[model.dof_bodyid] != robot] *= DAMPING


def done(action: np.ndarray) -> np.ndarray:
    """What the arm does of an action (4,) that it is told."""
    x, y, z, grip = action
    cos, sin = math.cos(TURN), math.sin(TURN)
    return np.array([*np.multiply(GAIN, (cos * x - sin * y, sin * x + cos * y, z)), grip])


def seen(observation: np.ndarray) -> np.ndarray:
    """What the sensors tell of MetaWorld's observation (39,): now and the step before, each hand, gripper and two
    objects (position, quaternion), then the goal. An object that is not there stays at 0."""
    found = observation.copy()
    for moment in (found[:18], found[18:36]):
        moment[3] *= GRIPPER
        for first in (4, 11):
            if moment[first : first + 3].any():
                moment[first : first + 3] += OFFSET
    found[36:] += OFFSET
    return found

"""Simulated worlds: the MetaWorld adapter, rendering, and the vector environment in worker processes."""

from pirl_core.envs.drawing import opengl

opengl.prefer()

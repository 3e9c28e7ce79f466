"""The WidowX's expert on SIMPLER: that of put-on-plate, told how high a target is."""

import numpy as np

from pirl_core.envs.contract import Act
from pirl_core.envs.put_on_plate.expert import pick_and_place
from pirl_core.envs.simpler.simulator import SimplerEnv

TOPS = {"StackGreenCubeOnYellowCubeBakedTexInScene-v1": 0.015, "PutEggplantInBasketScene-v1": 0.05}
"""In m above the target's origin: half a cube, and above the basket's rim."""


def show(simulator: SimplerEnv, act: Act) -> None:
    """Until the episode's end, or three grasps have failed."""
    scene = simulator.scene
    box = scene.model_db[scene.source_obj_name]["bbox"]
    bounds = np.array(box["min"]), np.array(box["max"])
    thing, target = simulator.bodies
    pick_and_place(scene, thing, target, bounds, act, TOPS.get(simulator.task, 0.0))

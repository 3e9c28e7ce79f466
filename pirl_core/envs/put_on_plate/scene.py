"""Put-on-plate's table, on mani_skill's base environment: PhysX on a CPU, drawn through Vulkan.

World frame in metres, quaternions (w, x, y, z). The table's top is at z = 0.87.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sapien
import torch
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.envs.tasks.digital_twins.bridge_dataset_eval import base_env
from mani_skill.utils import sapien_utils
from mani_skill.utils.structs.types import SimConfig
from sapien.physx import PhysxMaterial

from pirl_core.envs import widowx
from pirl_core.errors import UserError, first_line

ROBOT_POSE = sapien.Pose([0.147, 0.028, 0.870], [0, 0, 0, 1])
START = np.array([-0.01840777, 0.0398835, 0.22242722, -0.00460194, 1.36524296, 0.00153398, 0.037, 0.037])
"""Joint positions at the start, measured on BridgeData's robot."""


class Thing(NamedTuple):
    """A rigid body. folder: holds collision.obj and textured.*; density in kg/m³."""

    folder: Path
    density: float


class Placed(NamedTuple):
    """xyz in m, yaw in rad about z."""

    xyz: tuple[float, float, float]
    yaw: float


class TableScene(BaseEnv):
    """One robot and the given things, nothing else: a body that is not in the episode costs no time."""

    SUPPORTED_OBS_MODES = ["none"]  # noqa: RUF012  (mani_skill's)
    SUPPORTED_REWARD_MODES = ["none"]  # noqa: RUF012

    def __init__(self, things: Sequence[Thing], render_backend: str) -> None:
        self.things = list(things)
        self.bodies: list[Any] = []
        super().__init__(
            robot_uids=base_env.WidowX250SBridgeDatasetFlatTable,
            obs_mode="none",
            control_mode=widowx.CONTROL,
            sim_backend="physx_cpu",
            render_backend=render_backend,
        )

    @property
    def _default_sim_config(self) -> SimConfig:
        return SimConfig(sim_freq=500, control_freq=5, spacing=20)

    def _load_agent(self, options: dict[str, Any]) -> None:
        super()._load_agent(options, sapien.Pose([0.127, 0.060, 0.85], [0, 0, 0, 1]))

    def _load_scene(self, options: dict[str, Any]) -> None:
        sapien_utils.set_articulation_render_material(self.agent.robot._objs[0], specular=0.9, roughness=0.3)
        stage = str(base_env.BRIDGE_DATASET_ASSET_PATH / "stages/bridge_table_1_v1.glb")
        builder = self.scene.create_actor_builder()
        turned = sapien.Pose(q=[0.707, 0.707, 0, 0])
        builder.add_nonconvex_collision_from_file(stage, pose=turned)
        builder.add_visual_from_file(stage, pose=turned)
        builder.initial_pose = sapien.Pose([2.0634, 2.8313, 0.0])
        builder.build_static(name="arena")
        self.bodies = [self._build(number, thing) for number, thing in enumerate(self.things)]

    def _build(self, number: int, thing: Thing) -> Any:
        builder = self.scene.create_actor_builder()
        material = PhysxMaterial(static_friction=1.0, dynamic_friction=1.0, restitution=0.0)
        looks = [thing.folder / f"textured.{ending}" for ending in ("obj", "dae", "glb")]
        visual = next((path for path in looks if path.is_file()), looks[-1])
        try:
            builder.add_multiple_convex_collisions_from_file(
                str(thing.folder / "collision.obj"), material=material, density=thing.density
            )
            builder.add_visual_from_file(str(visual))
            builder.initial_pose = sapien.Pose([1.0, 0.3 * number, 1.0])
            return builder.build(name=f"thing {number}")
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"{thing.folder} holds no readable mesh ({first_line(error)}); "
                            "download it again") from error  # fmt: skip

    def _load_lighting(self, options: dict[str, Any]) -> None:
        self.scene.set_ambient_light([0.3, 0.3, 0.3])
        self.scene.add_directional_light([0, 0, -1], [2.2, 2.2, 2.2], shadow=False)
        self.scene.add_directional_light([-1, -0.5, -1], [0.7, 0.7, 0.7])
        self.scene.add_directional_light([1, 1, -1], [0.7, 0.7, 0.7])

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict[str, Any]) -> None:
        self.agent.robot.set_pose(ROBOT_POSE)
        self.agent.reset(init_qpos=options.get("qpos", START))
        for body, placed in zip(self.bodies, options.get("places", []), strict=False):
            body.set_pose(pose_of(placed))

    def evaluate(self) -> dict[str, Any]:
        return {}

    def start(self, things: Sequence[Thing], places: Sequence[Placed], qpos: np.ndarray) -> None:
        """Begin an episode in a new scene: PhysX keeps an order of contacts from what was before, which objects that
        fall and roll would show."""
        self.things = list(things)
        self.reset(seed=0, options={"places": places, "qpos": qpos, "reconfigure": True})


def pose_of(placed: Placed) -> sapien.Pose:
    return sapien.Pose(placed.xyz, [np.cos(placed.yaw / 2), 0, 0, np.sin(placed.yaw / 2)])

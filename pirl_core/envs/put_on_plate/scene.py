"""Put-on-plate's table, on mani_skill's base environment: PhysX and Vulkan on a CPU, or on a GPU many at once.

World frame in metres, quaternions (w, x, y, z). The table's top is at z = 0.87. Axes: N rows, tables simulated
together; n rows of a call; T things.
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
from mani_skill.utils.structs import Pose
from mani_skill.utils.structs.types import SimConfig
from sapien.physx import PhysxMaterial

from pirl_core.envs import widowx
from pirl_core.envs.drawing import vulkan
from pirl_core.envs.put_on_plate import assets
from pirl_core.envs.put_on_plate.play import START
from pirl_core.errors import UserError, first_line

ROBOT_POSE = sapien.Pose([0.147, 0.028, 0.870], [0, 0, 0, 1])


class Thing(NamedTuple):
    """A rigid body. folder: holds collision.obj and textured.*; density in kg/m³."""

    folder: Path
    density: float


def thing(kind: assets.Kind, number: int) -> Thing:
    """An object or a plate of the assets. Raises UserError where they are missing."""
    key = assets.key(kind, number)
    return Thing(assets.folder(kind) / key, float(assets.models(kind)[key].get("density", 1000)))


class TableScene(BaseEnv):
    """A robot and the given things in each row, nothing else: a body that is not in the episode costs time."""

    SUPPORTED_OBS_MODES = ["none"]  # noqa: RUF012  (mani_skill's)
    SUPPORTED_REWARD_MODES = ["none"]  # noqa: RUF012

    def __init__(
        self,
        things: Sequence[Thing],
        render_backend: str,
        sim_backend: str = "physx_cpu",
        num_envs: int = 1,
        fast: bool = False,
    ) -> None:
        """fast: the robot's own camera is the fast one; for rows, to which no second one can be added."""
        self.things = list(things)
        self.bodies: list[Any] = []
        self._fast = fast
        super().__init__(
            robot_uids=base_env.WidowX250SBridgeDatasetFlatTable,
            obs_mode="none",
            control_mode=widowx.CONTROL,
            sim_backend=sim_backend,
            render_backend=render_backend,
            num_envs=num_envs,
        )

    @property
    def _default_sim_config(self) -> SimConfig:
        return SimConfig(sim_freq=500, control_freq=5, spacing=20)

    def _load_agent(self, options: dict[str, Any]) -> None:
        super()._load_agent(options, sapien.Pose([0.127, 0.060, 0.85], [0, 0, 0, 1]))

    def _load_scene(self, options: dict[str, Any]) -> None:
        for robot in self.agent.robot._objs:
            sapien_utils.set_articulation_render_material(robot, specular=0.9, roughness=0.3)
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

    def _setup_sensors(self, options: dict[str, Any]) -> None:
        if self._fast:
            self._custom_sensor_configs = widowx.fast_settings(self.agent)
        super()._setup_sensors(options)

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict[str, Any]) -> None:
        self.agent.robot.set_pose(ROBOT_POSE)
        self.agent.reset(init_qpos=options.get("joints", START))
        for body, poses in zip(self.bodies, options.get("poses", []), strict=False):
            body.set_pose(Pose.create(poses))

    def evaluate(self) -> dict[str, Any]:
        return {}

    def start(self, things: Sequence[Thing], poses: np.ndarray, joints: np.ndarray) -> None:
        """Begin an episode in a new scene of these things: PhysX keeps an order of contacts from what was before, which
        objects that fall and roll would show. poses (T, N, 7), joints (N, 8) at the start."""
        self.things = list(things)
        self.reset(seed=0, options={**self._tensors(poses, joints), "reconfigure": True})

    def restart(self, rows: Sequence[int], poses: np.ndarray, joints: np.ndarray) -> None:
        """Begin episodes in n rows of the scene that is there. poses (T, n, 7), joints (n, 8) at the start."""
        arm = self.agent.controller.controllers["arm"]
        # mani_skill would have the arms of all rows forget where they are going.
        target = arm.get_state()["target_pose"].clone()
        order = np.argsort(rows)  # mani_skill knows them by a mask
        chosen = torch.as_tensor(np.asarray(rows)[order], device=self.device)
        self.reset(seed=0, options={**self._tensors(poses[:, order], joints[order]), "env_idx": chosen})
        target[chosen] = arm.get_state()["target_pose"][chosen]
        arm.set_state({"target_pose": target})

    def move(self, body: Any, rows: Sequence[int], poses: np.ndarray) -> None:
        """Put a body of n rows elsewhere; it keeps its velocity. poses (n, 7)."""
        mask, order = self.scene._reset_mask, np.argsort(rows)
        mask[:] = False
        mask[torch.as_tensor(np.asarray(rows), device=self.device)] = True
        body.set_pose(Pose.create(torch.as_tensor(poses[order], dtype=torch.float32, device=self.device)))
        mask[:] = True
        vulkan.apply_state(self)

    def _tensors(self, poses: np.ndarray, joints: np.ndarray) -> dict[str, torch.Tensor]:
        numbers = {"poses": poses, "joints": joints}
        return {
            name: torch.as_tensor(value, dtype=torch.float32, device=self.device) for name, value in numbers.items()
        }

"""The simulated table with a WidowX 250S, on ManiSkill's base environment: PhysX on a CPU, drawn through Vulkan.

World frame in metres, quaternions (w, x, y, z). The table's top is at z = 0.87.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sapien
import torch
from mani_skill.agents.robots.widowx.widowx import WidowX250S
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.envs.tasks.digital_twins.bridge_dataset_eval.base_env import WidowX250SBridgeDatasetFlatTable
from mani_skill.sensors.camera import CameraConfig
from mani_skill.utils import sapien_utils
from mani_skill.utils.structs.types import SimConfig
from sapien.physx import PhysxMaterial

from pirl_core.envs.put_on_plate import assets
from pirl_core.errors import UserError

# It warns of every robot it builds; the space belongs to its name.
logging.getLogger("mani_skill ").setLevel(logging.ERROR)

CONTROL = "arm_pd_ee_target_delta_pose_align2_gripper_pd_joint_pos"
ROBOT_POSE = sapien.Pose([0.147, 0.028, 0.870], [0, 0, 0, 1])
START = np.array([-0.01840777, 0.0398835, 0.22242722, -0.00460194, 1.36524296, 0.00153398, 0.037, 0.037])
"""Joint positions at the start, measured on BridgeData's robot."""

SENSOR = "3rd_view_camera"
FAST = "fast"
SHRINK = 4
"""The fast camera has so many times fewer pixels a side than the robot's 640 × 480."""


class Thing(NamedTuple):
    """A rigid body. folder: holds collision.obj and textured.*; density in kg/m³."""

    folder: Path
    density: float


class Placed(NamedTuple):
    """xyz in m, yaw in rad about z."""

    xyz: tuple[float, float, float]
    yaw: float


class TableScene(BaseEnv):  # type: ignore[misc]
    """One robot and the given things, nothing else: a body that is not in the episode costs no time."""

    SUPPORTED_OBS_MODES = ["none"]  # noqa: RUF012  (ManiSkill's)
    SUPPORTED_REWARD_MODES = ["none"]  # noqa: RUF012

    def __init__(self, things: Sequence[Thing]) -> None:
        self.things = list(things)
        self.bodies: list[Any] = []
        super().__init__(
            robot_uids=WidowX250SBridgeDatasetFlatTable,
            obs_mode="none",
            control_mode=CONTROL,
            sim_backend="cpu",
            render_backend="cpu",
        )

    @property
    def _default_sim_config(self) -> SimConfig:
        return SimConfig(sim_freq=500, control_freq=5, spacing=20)

    @property
    def _default_sensor_configs(self) -> list[CameraConfig]:
        return [fast_camera(self.agent)]

    def _load_agent(self, options: dict[str, Any]) -> None:
        super()._load_agent(options, sapien.Pose([0.127, 0.060, 0.85], [0, 0, 0, 1]))

    def _load_scene(self, options: dict[str, Any]) -> None:
        sapien_utils.set_articulation_render_material(self.agent.robot._objs[0], specular=0.9, roughness=0.3)
        stage = str(assets.bridge("tasks/bridge_v2_real2sim_dataset/stages/bridge_table_1_v1.glb"))
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
            raise UserError(f"{thing.folder} holds no readable mesh ({str(error).splitlines()[0]}); "
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
        """Begin an episode, in the scene as it is where it has these things, else in a new one."""
        rebuild = list(things) != self.things
        self.things = list(things)
        self.reset(seed=0, options={"places": places, "qpos": qpos, "reconfigure": rebuild})


def fast_camera(agent: WidowX250S) -> CameraConfig:
    """The robot's own camera with fewer pixels."""
    own = agent._sensor_configs[0]
    intrinsic = np.array(own.intrinsic, dtype=np.float64)
    intrinsic[:2] /= SHRINK
    return CameraConfig(
        uid=FAST,
        pose=own.pose,
        width=own.width // SHRINK,
        height=own.height // SHRINK,
        mount=agent.robot.links_map[own.entity_uid],
        intrinsic=intrinsic,
        near=own.near,
        far=own.far,
    )


def pose_of(placed: Placed) -> sapien.Pose:
    return sapien.Pose(placed.xyz, [np.cos(placed.yaw / 2), 0, 0, np.sin(placed.yaw / 2)])


def advance(scene: BaseEnv, action: np.ndarray) -> None:
    """One control step, 0.2 s, without the observation that ManiSkill's own step draws each time."""
    scene._step_action(action.astype(np.float32))


def draw(scene: BaseEnv, fast: bool) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H, W, 3) uint8, and the number of the body seen at each pixel (H, W)."""
    camera = scene.scene.sensors[FAST if fast else SENSOR]
    scene.scene.update_render(update_sensors=True, update_human_render_cameras=False)
    camera.capture()
    seen = camera.get_obs(rgb=True, depth=False, position=False, segmentation=True)
    return seen["rgb"][0].numpy().astype(np.uint8), seen["segmentation"][0, ..., 0].numpy()


def pose_numbers(pose: Any) -> np.ndarray:
    """Position and quaternion (7,) of a ManiSkill pose of one scene."""
    numbers: np.ndarray = pose.raw_pose[0].numpy().astype(np.float64)
    return numbers


def rotation(quaternion: np.ndarray) -> np.ndarray:
    """(3, 3) of a unit quaternion (w, x, y, z)."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )

"""The WidowX 250S at the table of BridgeData, in mani_skill: what put-on-plate and SIMPLER share.

World frame in metres, quaternions (w, x, y, z). An action is the displacement of the gripper's target in the robot's
frame, in m, its rotation about x, y, z, in rad, and the gripper, -1 closed to 1 open: as published checkpoints have it.
"""

import gc
from typing import Any

import numpy as np
import torch
from mani_skill.agents.robots.widowx.widowx import WidowX250S
from mani_skill.envs.tasks.digital_twins.bridge_dataset_eval import base_env
from mani_skill.sensors.camera import Camera, CameraConfig

from pirl_core.envs import assets
from pirl_core.envs.drawing import vulkan

CONTROL = "arm_pd_ee_target_delta_pose_align2_gripper_pd_joint_pos"
SENSOR = "3rd_view_camera"
SHRINK = 4
"""The fast camera has so many times fewer pixels a side than the robot's 640 × 480."""

# mani_skill collects garbage at each new scene: a quarter of a second if it has to look through all that was imported.
gc.freeze()


def use_assets() -> None:
    """Let mani_skill find robot, stage and models, wherever they lie. Raises UserError where they cannot be had."""
    root = assets.find("maniskill")
    WidowX250S.urdf_path = str(root / "robots/widowx/wx250s.urdf")
    base_env.BRIDGE_DATASET_ASSET_PATH = root / "tasks/bridge_v2_real2sim_dataset"


class Eye:
    """The robot's camera, as it is or with fewer pixels and mani_skill's minimal shader."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._scene: Any = None  # that the fast camera is in; rebuilding a scene loses it
        self._fast: Any = None

    def draw(self, fast: bool) -> tuple[np.ndarray, np.ndarray]:
        """Picture (H, W, 3) uint8, and the number of the body seen at each pixel (H, W). Raises UserError if blind."""
        scene = self._env.scene
        vulkan.check(scene)
        if fast and self._scene is not scene:
            self._scene, self._fast = scene, Camera(_fast(self._env.agent), scene)
        camera = self._fast if fast else scene.sensors[SENSOR]
        scene.update_render(update_sensors=False, update_human_render_cameras=False)
        pictures, bodies = _seen(camera)
        return pictures[0], bodies[0]


def _fast(agent: WidowX250S) -> CameraConfig:
    own = agent._sensor_configs[0]
    mount = agent.robot.links_map[own.entity_uid]
    return CameraConfig(uid="fast", pose=own.pose, mount=mount, near=own.near, far=own.far, **fast_settings(agent))


def fast_settings(agent: WidowX250S) -> dict[str, Any]:
    """What the fast camera has otherwise than the robot's, by the names of mani_skill's CameraConfig."""
    own = agent._sensor_configs[0]
    intrinsic = np.array(own.intrinsic, dtype=np.float64)
    intrinsic[:2] /= SHRINK
    size = {"width": own.width // SHRINK, "height": own.height // SHRINK}
    return {**size, "intrinsic": intrinsic, "shader_pack": "minimal"}


def drawn(env: Any) -> tuple[np.ndarray, np.ndarray]:
    """What the robot's camera sees in each of N rows (N, H, W, 3) uint8, and the body's number at each pixel."""
    env.scene.update_render(update_sensors=True, update_human_render_cameras=False)
    return _seen(env.scene.sensors[SENSOR])


def _seen(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    camera.capture()
    seen = camera.get_obs(rgb=True, depth=False, position=False, segmentation=True)
    return seen["rgb"].cpu().numpy().astype(np.uint8), seen["segmentation"][..., 0].cpu().numpy()


def advance(env: Any, action: np.ndarray) -> None:
    """One control step (7,), or (N, 7) of N rows, 0.2 s, without the observation that mani_skill's own step draws."""
    env._step_action(action.astype(np.float32))


def state(env: Any, bodies: list[Any], count: int) -> np.ndarray:
    """The first ``count`` of joints (8,), poses (7,) of gripper and bodies; float32."""
    numbers = [robot_numbers(env)[0], *(pose_numbers(body.pose) for body in bodies)]
    row: np.ndarray = np.concatenate(numbers)[:count].astype(np.float32)
    return row


def robot_numbers(env: Any) -> np.ndarray:
    """Joints and the gripper's pose of N rows (N, 8 + 7)."""
    hand = env.agent.robot.links_map["ee_gripper_link"].pose.raw_pose
    numbers: np.ndarray = torch.cat([env.agent.robot.get_qpos(), hand], 1).cpu().numpy()
    return numbers


def pose_numbers(pose: Any) -> np.ndarray:
    """Position and quaternion (7,) of a mani_skill pose of one scene."""
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

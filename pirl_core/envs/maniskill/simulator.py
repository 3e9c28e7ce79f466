"""One slot for ManiSkill's table-top tasks: PhysX on the CPU, pictures by Vulkan (in software where there is no GPU).

mani_skill needs torch, so these worker processes load it, unlike others. PhysX starts each episode afresh: equal
episodes take equal courses bit for bit, in place or in another process. The first picture of a process takes about ten
seconds, in which the shaders are compiled.
"""

from typing import Any

import gymnasium
import numpy as np
import sapien
from mani_skill.sensors.camera import Camera, CameraConfig

from pirl_core import seeds
from pirl_core.envs.contract import Settings, stack_frames
from pirl_core.envs.drawing import vulkan
from pirl_core.envs.drawing.coarse import merged
from pirl_core.envs.maniskill.facts import BODIES, FACTS
from pirl_core.types import Episode

_GOAL = "goal_site"  # of PickCube; cameras of the policy do not see it
MANY_FACES = 1000
"""A body with more is drawn with fewer in fast frames: the arm, the ground."""


class ManiSkillEnv:
    """A simulator for one task that plays one episode after another."""

    def __init__(self, task: str, settings: Settings):
        self.task = task
        self._settings = settings
        self.env = vulkan.opened(lambda render: construct(task, render, num_envs=1, sim_backend="physx_cpu"))
        self._cameras: dict[tuple[str, int, bool], Any] = {}
        self._scene: Any = None  # of the cameras and bodies
        self._bodies: list[tuple[Any, Any]] = []  # the true one, and the coarse one that stands for it in fast frames
        self._steps = 0
        self._over = True

    def fits(self, episode: Episode) -> bool:
        return episode.task == self.task

    def reset(self, episode: Episode) -> None:
        """Start the episode. Raises UserError for an unknown shift."""
        if episode.task != self.task:
            raise ValueError(f"this slot simulates {self.task}, not {episode.task}")
        FACTS.check_shift(episode.shift)
        self.env.reset(seed=seeds.simulator_seed(episode.seed))
        self._steps = 0
        self._over = False

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """Apply one action (7,), clipped to [-1, 1]; returns reward, terminated, truncated.

        The reward is 1.0 on the first success, which ends the episode; else 0.0.
        """
        if self._over:
            raise RuntimeError(f"{self.task}: step after the episode's end; reset first")
        information = self.env.step(np.clip(action, -1.0, 1.0).astype(np.float32))[4]
        if not np.isfinite(self.state()).all():
            raise RuntimeError(f"{self.task}: the simulation diverged at step {self._steps}")
        self._steps += 1
        success = bool(information["success"])
        truncated = not success and self._steps >= self._settings.episode_steps
        self._over = success or truncated
        return float(success), success, truncated

    def state(self) -> np.ndarray:
        """What the policy reads now, (S,) float32."""
        row: np.ndarray = numbers_of(self.env, self.task, self._settings.object_state)[0]
        return row

    def instruction(self) -> str:
        return FACTS.tasks[self.task].sentences[0]

    def images(self) -> np.ndarray:
        """(C, image_size, image_size, 3) uint8, upright. Raises UserError when Vulkan is missing."""
        want = self._settings
        frames = [self._picture(camera, want.image_size, want.fast_render, goal=False) for camera in want.cameras]
        return stack_frames(frames, want.image_size)

    def picture(self, camera: str, size: int, fast: bool) -> np.ndarray:
        """(size, size, 3) uint8, upright; the goal of PickCube shows, unless ``fast``."""
        return self._picture(camera, size, fast, goal=not fast)

    def close(self) -> None:
        """Give up the scene."""
        self._cameras.clear()
        self.env.close()

    def _picture(self, camera: str, size: int, fast: bool, goal: bool) -> np.ndarray:
        vulkan.check(self.env.scene)
        for hidden in self.env._hidden_objects:
            (hidden.show_visual if goal else hidden.hide_visual)()
        eye = self._camera(camera, size, fast)
        for true, coarse in self._bodies:
            true.visibility, coarse.visibility = (0.0, 1.0) if fast else (1.0, 0.0)
        self.env.scene.update_render(update_sensors=False, update_human_render_cameras=False)
        eye.capture()
        frame = eye.get_obs(rgb=True, depth=False, position=False, segmentation=False)["rgb"][0].numpy()
        return np.ascontiguousarray(frame, np.uint8)

    def _camera(self, name: str, size: int, fast: bool) -> Any:
        """mani_skill's camera of that name with another resolution; tasks that rebuild their scene lose it."""
        if self._scene is not self.env.scene:
            self._scene = self.env.scene
            self._cameras.clear()
            self._bodies = _coarse_bodies(self._scene)
        key = (name, size, fast)
        if key not in self._cameras:
            ours = {**self.env._sensor_configs, **self.env._human_render_camera_configs}[name]
            config = CameraConfig(
                f"{name}_{size}_{fast}", ours.pose, size, size, ours.fov, ours.near, ours.far,
                shader_pack="minimal" if fast else "default",
            )  # fmt: skip
            self._cameras[key] = Camera(config, self.env.scene)
        return self._cameras[key]


def construct(task: str, render: str, **options: Any) -> Any:
    """mani_skill's environment without its time limit and its own observations."""
    fixed = {"obs_mode": "none", "reward_mode": "none", "control_mode": "pd_ee_delta_pose"}
    return gymnasium.make(task, render_backend=render, **fixed, **options).unwrapped


def numbers_of(env: Any, task: str, object_state: bool) -> np.ndarray:
    """What a policy reads in each of mani_skill's N environments (N, S) float32."""
    goal = getattr(env, _GOAL, None)
    parts = [env.agent.robot.get_qpos(), env.agent.tcp.pose.raw_pose, *([] if goal is None else [goal.pose.p])]
    bodies = [getattr(env, name).pose.raw_pose for name in BODIES[task]] if object_state else []
    numbers = np.zeros((env.num_envs, FACTS.state_dim(object_state)), np.float32)
    for place, columns in ((0, parts), (len(FACTS.state), bodies)):
        known = np.concatenate([np.empty((env.num_envs, 0)), *(column.cpu().numpy() for column in columns)], 1)
        numbers[:, place : place + known.shape[1]] = known
    return numbers


def _coarse_bodies(scene: Any) -> list[tuple[Any, Any]]:
    """Add a body with fewer faces to each entity of the scene that has many; pairs of the true and the coarse body."""
    pairs = []
    for entity in (entity for part in scene.sub_scenes for entity in part.entities):
        true = entity.find_component_by_type(sapien.render.RenderBodyComponent)
        shapes = true.render_shapes if true else []
        meshes = all(isinstance(shape, sapien.render.RenderShapeTriangleMesh) for shape in shapes)
        if not meshes or sum(len(part.triangles) for shape in shapes for part in shape.parts) <= MANY_FACES:
            continue
        coarse = sapien.render.RenderBodyComponent()
        for shape in shapes:
            for part in shape.parts:
                vertices, _, corners = merged(part.vertices, part.triangles)
                mesh = sapien.render.RenderShapeTriangleMesh(
                    part.vertices[vertices], corners.astype(np.uint32), part.get_vertex_normal()[vertices],
                    part.get_vertex_uv()[vertices], part.material,
                )  # fmt: skip
                mesh.local_pose, mesh.scale = shape.local_pose, shape.scale
                coarse.attach(mesh)
        entity.add_component(coarse)
        pairs.append((true, coarse))
    return pairs

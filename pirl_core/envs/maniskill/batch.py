"""ManiSkill's table-top tasks on a GPU: many tables in one PhysX simulation, drawn by one call.

mani_skill draws the starts of all rows from one seed; here each row has its own, so that an episode starts in the same
state wherever it is played. Otherwise ``reset`` is mani_skill's, in its order. PhysX takes another course on a GPU than
on a CPU.
Axes: N rows, n of them in a call, C cameras, H W pixels, S state numbers, A action numbers.
"""

import numpy as np
import torch

from pirl_core import seeds
from pirl_core.envs.contract import Settings
from pirl_core.envs.drawing import vulkan
from pirl_core.envs.maniskill.facts import FACTS
from pirl_core.envs.maniskill.simulator import construct, numbers_of
from pirl_core.types import Episode


class ManiSkillBatch:
    """A ``benchmarks.Batch`` for one task."""

    def __init__(self, task: str, settings: Settings, num_envs: int, device: str) -> None:
        """device: "cuda:0" and so on, or "cpu", which has room for one row."""
        self.task = task
        self._settings = settings
        self._steps = np.zeros(num_envs, np.int64)
        size = settings.image_size
        camera = {"width": size, "height": size, "shader_pack": "minimal" if settings.fast_render else "default"}
        options = {"num_envs": num_envs, "sim_backend": f"physx_{device}"}
        cameras = {"sensor_configs": camera, "human_render_camera_configs": camera}
        self.env = vulkan.opened(lambda render: construct(task, render, **options, **cameras), device)

    def fits(self, episode: Episode) -> bool:
        return episode.task == self.task

    def reset(self, rows: np.ndarray, episodes: list[Episode]) -> None:
        for episode in episodes:
            FACTS.check_shift(episode.shift)
        env, mask = self.env, self.env.scene._reset_mask
        mask[:] = False
        mask[torch.as_tensor(rows, device=env.device)] = True
        env._clear_sim_state()
        env.agent.reset()
        generators = [env.device] if env.device.type == "cuda" else []
        with torch.random.fork_rng(generators):
            for row, episode in zip(rows, episodes, strict=True):
                mask[:] = False
                mask[int(row)] = True
                torch.manual_seed(seeds.simulator_seed(episode.seed))
                env._episode_rng = np.random.RandomState(seeds.simulator_seed(episode.seed))
                env._initialize_episode(torch.as_tensor([int(row)], device=env.device), {})
        mask[:] = True
        vulkan.apply_state(env)
        env.agent.controller.reset()
        self._steps[rows] = 0

    def step(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        everyone = np.zeros((self.env.num_envs, actions.shape[1]), np.float32)
        everyone[rows] = np.clip(actions, -1.0, 1.0)
        success = self.env.step(everyone)[4]["success"].cpu().numpy()[rows]
        self._steps[rows] += 1
        if not np.isfinite(self.state(rows)).all():
            raise RuntimeError(f"{self.task}: the simulation diverged")
        late = ~success & (self._steps[rows] >= self._settings.episode_steps)
        return success.astype(np.float64), success, late

    def state(self, rows: np.ndarray) -> np.ndarray:
        numbers: np.ndarray = numbers_of(self.env, self.task, self._settings.object_state)[rows]
        return numbers

    def instructions(self, rows: np.ndarray) -> list[str]:
        return [FACTS.tasks[self.task].sentences[0]] * len(rows)

    def images(self, rows: np.ndarray) -> np.ndarray:
        names, size = self._settings.cameras, self._settings.image_size
        pictures = np.zeros((len(rows), len(names), size, size, 3), np.uint8)
        if names:
            scene = self.env.scene
            vulkan.check(scene)
            for hidden in self.env._hidden_objects:
                hidden.hide_visual()
            # mani_skill takes memory for those cameras alone that are asked for.
            seen = {"base_camera": "base_camera" in names, "render_camera": "render_camera" in names}
            scene.update_render(seen["base_camera"], seen["render_camera"])
            for index, name in enumerate(names):
                camera = {**scene.sensors, **scene.human_render_cameras}[name]
                camera.capture()
                drawn = camera.get_obs(rgb=True, depth=False, position=False, segmentation=False)["rgb"]
                pictures[:, index] = drawn.cpu().numpy()[rows]
        return pictures

    def close(self) -> None:
        self.env.close()

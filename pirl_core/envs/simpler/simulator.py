"""One slot for a WidowX task of SIMPLER: mani_skill's own environment, with its starts and its success."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mani_skill.envs.tasks.digital_twins.bridge_dataset_eval import put_on_in_scene
from transforms3d.quaternions import axangle2quat, qmult

from pirl_core.envs import widowx
from pirl_core.envs.contract import Settings, stack_frames
from pirl_core.envs.drawing import vulkan
from pirl_core.envs.put_on_plate import overlay
from pirl_core.envs.put_on_plate.assets import picture
from pirl_core.envs.simpler.facts import FACTS, PICKS, draw
from pirl_core.types import Episode

_CLASSES = {
    "PutSpoonOnTableClothInScene-v1": put_on_in_scene.PutSpoonOnTableClothInScene,
    "PutCarrotOnPlateInScene-v1": put_on_in_scene.PutCarrotOnPlateInScene,
    "StackGreenCubeOnYellowCubeBakedTexInScene-v1": put_on_in_scene.StackGreenCubeOnYellowCubeBakedTexInScene,
    "PutEggplantInBasketScene-v1": put_on_in_scene.PutEggplantInBasketScene,
}


class SimplerEnv:
    """A simulator for one task that plays one episode after another."""

    def __init__(self, task: str, settings: Settings) -> None:
        self.task = task
        self._settings = settings
        self._state_dim = FACTS.state_dim(settings.object_state)
        self._limit = min(settings.episode_steps, PICKS[task].steps)
        widowx.use_assets()
        self.scene = _opened(task)
        self._listed = self.scene.xyz_configs, self.scene.quat_configs
        self._eye = widowx.Eye(self.scene)
        self._steps = 0
        self._over = True

    def fits(self, episode: Episode) -> bool:
        return episode.task == self.task

    def reset(self, episode: Episode) -> np.ndarray:
        """Start the episode; returns the state (S,) float32. With the shift listed mani_skill's starts come in turn, by
        ``episode.number``; else the seed draws one between them.

        Raises UserError for an unknown shift.
        """
        if episode.task != self.task:
            raise ValueError(f"this slot simulates {self.task}, not {episode.task}")
        FACTS.check_shift(episode.shift)
        places, turns = self._listed
        number = episode.number
        if episode.shift != "listed":
            start = draw(self.task, episode.seed)
            row, column = divmod(start.number, len(turns))
            place, turn = places[row].clone(), turns[column].clone()
            place[:, :2] += torch.tensor(start.moved)
            turn[0] = torch.from_numpy(qmult(axangle2quat((0, 0, 1), start.turned), turn[0].numpy()))
            places, turns, number = place[None], turn[None], 0
        self.scene.xyz_configs, self.scene.quat_configs = places, turns
        # A new scene: PhysX keeps an order of contacts from what was before.
        self.scene.reset(seed=0, options={"episode_id": torch.tensor([number]), "reconfigure": True})
        self.bodies = [self.scene.objs[name] for name in self.scene.obj_names]
        self._kept = _kept(self.scene)
        self._steps = 0
        self._over = False
        return self.state()

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """One control step (7,); returns reward, terminated, truncated. The reward is 1.0 on success, which ends it."""
        if self._over:
            raise RuntimeError(f"{self.task}: step after the episode's end; reset first")
        widowx.advance(self.scene, action)
        self._steps += 1
        success = bool(self.scene.evaluate()["success"])
        truncated = not success and self._steps >= self._limit
        self._over = success or truncated
        return float(success), success, truncated

    def state(self) -> np.ndarray:
        """What the policy reads now, (S,) float32."""
        return widowx.state(self.scene, self.bodies, self._state_dim)

    def instruction(self) -> str:
        return PICKS[self.task].sentence

    def images(self) -> np.ndarray:
        """(C, image_size, image_size, 3) uint8, upright. Raises UserError when Vulkan is missing."""
        want = self._settings
        frames = [self.picture(camera, want.image_size, want.fast_render) for camera in want.cameras]
        return stack_frames(frames, want.image_size)

    def picture(self, camera: str, size: int, fast: bool) -> np.ndarray:
        """(size, size, 3) uint8, upright: robot and objects over the photograph of the real table or sink."""
        rendered, bodies = self._eye.draw(fast)
        shown = np.isin(bodies, self._kept)
        background = _background(Path(self.scene.rgb_overlay_paths[widowx.SENSOR]), *shown.shape)
        return overlay.square(overlay.on_table(rendered, shown, background), size)

    def close(self) -> None:
        self.scene.close()


def _opened(task: str) -> Any:
    """Without mani_skill's own observations, drawn at each reset, and without its overlay, which is laid here (and
    whose list of bodies would keep every scene that was)."""
    changes = {
        "SUPPORTED_OBS_MODES": ["none"],
        "rgb_overlay_mode": "none",
        "remove_object_from_greenscreen": lambda scene, body: None,
    }
    blind = type(task, (_CLASSES[task],), changes)
    fixed = {"obs_mode": "none", "control_mode": widowx.CONTROL, "sim_backend": "physx_cpu"}
    return vulkan.opened(lambda render: blind(render_backend=render, **fixed))


def _kept(scene: Any) -> list[int]:
    """Bodies that the photograph does not cover: the robot's links, and what mani_skill says."""
    names = {link.name for link in scene.agent.robot.get_links()} | set(scene.objects_excluded_from_greenscreening)
    return [number for number, body in scene.segmentation_id_map.items() if body.name in names]


@cache
def _background(path: Path, height: int, width: int) -> np.ndarray:
    return overlay.resize(picture(path), height, width).round().astype(np.uint8)

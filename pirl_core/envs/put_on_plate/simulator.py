"""Put-on-plate as a benchmark's simulator: an episode slot with ManiSkill's scene inside."""

import numpy as np

from pirl_core.envs import widowx
from pirl_core.envs.contract import Settings, stack_frames
from pirl_core.envs.drawing import vulkan
from pirl_core.envs.put_on_plate import overlay
from pirl_core.envs.put_on_plate.facts import FACTS
from pirl_core.envs.put_on_plate.play import Play
from pirl_core.envs.put_on_plate.rules import Contact
from pirl_core.envs.put_on_plate.scene import TableScene, thing
from pirl_core.envs.widowx import Eye, pose_numbers
from pirl_core.types import Episode

_ROW = [0]


class PutOnPlateEnv:
    """A simulator for every task and shift; each episode has a scene of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._state_dim = FACTS.state_dim(settings.object_state)
        self._scene: TableScene | None = None
        self._over = True

    def fits(self, episode: Episode) -> bool:
        return episode.task in FACTS.tasks

    def reset(self, episode: Episode) -> np.ndarray:
        """Start the episode; returns the state (S,) float32. The seed draws the start from the shift's set.

        Raises UserError for an unknown shift, and where package or assets are missing.
        """
        self.play = Play(episode, self._settings.episode_steps)
        things = [thing(*body) for body in self.play.bodies]
        if self._scene is None:
            widowx.use_assets()
            self._scene = vulkan.opened(lambda render: TableScene(things, render))
            self._eye = Eye(self._scene)
        poses = np.stack([placed.numbers() for placed in self.play.places])
        self._scene.start(things, poses[:, None], self.play.joints[None])
        self._over = False
        return self.state()

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """One control step (7,); returns reward, terminated (on the plate), truncated."""
        if self._over:
            raise RuntimeError("put-on-plate: step after the episode's end; reset first")
        widowx.advance(self.scene, action)
        thing, plate = self.scene.bodies[:2]
        if (jump := self.play.advance()) is not None:
            self.scene.move(thing, _ROW, jump.numbers()[None])
        contact = Contact(
            pose_numbers(thing.pose)[:3],
            pose_numbers(plate.pose)[:3],
            float(np.linalg.norm(self.scene.scene.get_pairwise_contact_forces(thing, plate)[0].numpy())),
            bool(self.scene.agent.is_grasping(thing)[0]),
        )
        reward, placed, truncated = self.play.judge(contact)
        self._over = placed or truncated
        return reward, placed, truncated

    def state(self) -> np.ndarray:
        """What the policy reads now, (S,) float32."""
        return widowx.state(self.scene, self.scene.bodies[:2], self._state_dim)

    def instruction(self) -> str:
        return self.play.instruction()

    def images(self) -> np.ndarray:
        """(C, image_size, image_size, 3) uint8, upright."""
        want = self._settings
        frames = [self.picture(camera, want.image_size, want.fast_render) for camera in want.cameras]
        return stack_frames(frames, want.image_size)

    def picture(self, camera: str, size: int, fast: bool) -> np.ndarray:
        """(size, size, 3) uint8, upright."""
        rendered, bodies = self._eye.draw(fast)
        return overlay.square(self.play.picture(rendered, np.isin(bodies, self._kept_numbers())), size)

    @property
    def scene(self) -> TableScene:
        if self._scene is None:
            raise RuntimeError("put-on-plate: reset first")
        return self._scene

    def close(self) -> None:
        if self._scene is not None:
            self._scene.close()
            self._scene = None

    def _kept_numbers(self) -> list[int]:
        """Bodies that the photograph does not cover: the robot's links and the things."""
        return [n for n, body in self.scene.segmentation_id_map.items() if body.name != "arena"]

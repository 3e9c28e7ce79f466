"""Put-on-plate as a benchmark's simulator: an episode slot with ManiSkill's scene inside."""

from functools import cache

import numpy as np

from pirl_core.envs import vulkan, widowx
from pirl_core.envs.benchmarks import Settings, stack_frames
from pirl_core.envs.put_on_plate import assets, overlay
from pirl_core.envs.put_on_plate.facts import FACTS, LONG_HOLD
from pirl_core.envs.put_on_plate.names import sentence
from pirl_core.envs.put_on_plate.rules import Contact, Reward, on_plate, world_box
from pirl_core.envs.put_on_plate.scene import START, Placed, TableScene, Thing, pose_of
from pirl_core.envs.put_on_plate.variations import JUMP_STEP, Start, Variation, arm_offsets, decode, size, variation_of
from pirl_core.envs.widowx import Eye, pose_numbers, rotation
from pirl_core.types import Episode


class PutOnPlateEnv:
    """A simulator for every task and shift; each episode has a scene of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._state_dim = FACTS.state_dim(settings.object_state)
        self._scene: TableScene | None = None
        self._steps = 0
        self._over = True

    def fits(self, episode: Episode) -> bool:
        return episode.task in FACTS.tasks

    def reset(self, episode: Episode) -> np.ndarray:
        """Start the episode; returns the state (S,) float32. The seed draws the start from the shift's set.

        Raises UserError for an unknown shift, and where package or assets are missing.
        """
        FACTS.check_shift(episode.shift)
        self._variation = variation_of(episode.shift, episode.task)
        number = int(np.random.default_rng([episode.seed, 0]).integers(size(self._variation)))
        self._episode = start = decode(self._variation, number)
        things = [_thing("carrot", start.thing), _thing("plate", start.plate)]
        places = [Placed(start.places[0], start.yaw), Placed(start.places[1], 0.0)]
        if self._variation.extra in ("object", "plate"):
            kind: assets.Kind = "carrot" if self._variation.extra == "object" else "plate"
            things.append(_thing(kind, start.extra))
            places.append(Placed(start.places[2], start.yaw if kind == "carrot" else 0.0))
        moved = arm_offsets()[start.extra - 1] if self._variation.extra == "arm" else 0.0
        if self._scene is None:
            widowx.use_assets()
            self._scene = vulkan.opened(lambda render: TableScene(things, render))
            self._eye = Eye(self._scene)
        self._scene.start(things, places, START + moved)
        self._halves = [
            world_box(np.subtract(*_bounds(kind, number)[::-1]), rotation(pose_numbers(body.pose)[3:]))
            for (kind, number), body in zip((("carrot", start.thing), ("plate", start.plate)), self._scene.bodies)
        ]
        self._reward = Reward(long_hold=episode.task == LONG_HOLD)
        self._steps = 0
        self._over = False
        return self.state()

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """One control step (7,); returns reward, terminated (on the plate), truncated."""
        if self._over:
            raise RuntimeError("put-on-plate: step after the episode's end; reset first")
        widowx.advance(self.scene, action)
        self._steps += 1
        thing, plate = self.scene.bodies[:2]
        if self._variation.extra == "jump" and self._steps == JUMP_STEP:
            thing.set_pose(pose_of(Placed(self._episode.places[2], self._episode.yaw)))
        force = self.scene.scene.get_pairwise_contact_forces(thing, plate)[0].numpy()
        contact = Contact(
            pose_numbers(thing.pose)[:3],
            pose_numbers(plate.pose)[:3],
            float(np.linalg.norm(force)),
            bool(self.scene.agent.is_grasping(thing)[0]),
        )
        placed = on_plate(contact, *self._halves)
        truncated = not placed and self._steps >= self._settings.episode_steps
        self._over = placed or truncated
        return self._reward.of(contact.held, placed), placed, truncated

    def state(self) -> np.ndarray:
        """What the policy reads now, (S,) float32."""
        return widowx.state(self.scene, self.scene.bodies[:2], self._state_dim)

    def instruction(self) -> str:
        template = self._episode.extra if self._variation.extra == "template" else 0
        return sentence(template, self._episode.thing, self._episode.plate)

    def images(self) -> np.ndarray:
        """(C, image_size, image_size, 3) uint8, upright."""
        want = self._settings
        frames = [self.picture(camera, want.image_size, want.fast_render) for camera in want.cameras]
        return stack_frames(frames, want.image_size)

    def picture(self, camera: str, size: int, fast: bool) -> np.ndarray:
        """(size, size, 3) uint8, upright."""
        rendered, bodies = self._eye.draw(fast)
        shown = np.isin(bodies, self._kept_numbers())
        table = _table(self._episode.table, *shown.shape)
        variation = self._variation
        match variation.extra:
            case "texture":
                paint = assets.texture(self._episode.extra)
                image = overlay.with_texture(rendered, shown, table, paint, variation.mix)
            case "whole":
                image = overlay.with_whole(rendered, shown, table, assets.texture(self._episode.extra), variation.mix)
            case _:
                image = overlay.on_table(rendered, shown, table)
        return overlay.square(image, size)

    @property
    def scene(self) -> TableScene:
        if self._scene is None:
            raise RuntimeError("put-on-plate: reset first")
        return self._scene

    @property
    def start(self) -> Start:
        """The episode's start, for the expert."""
        return self._episode

    @property
    def variation(self) -> Variation:
        return self._variation

    def close(self) -> None:
        if self._scene is not None:
            self._scene.close()
            self._scene = None

    def _kept_numbers(self) -> list[int]:
        """Bodies that the photograph does not cover: the robot's links and the things."""
        return [n for n, body in self.scene.segmentation_id_map.items() if body.name != "arena"]


def bounds(simulator: PutOnPlateEnv) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner (3,) of the object's box in its own frame."""
    return _bounds("carrot", simulator.start.thing)


@cache
def _bounds(kind: assets.Kind, number: int) -> tuple[np.ndarray, np.ndarray]:
    box = assets.models(kind)[assets.key(kind, number)]["bbox"]
    return np.array(box["min"]), np.array(box["max"])


def _thing(kind: assets.Kind, number: int) -> Thing:
    key = assets.key(kind, number)
    return Thing(assets.folder(kind) / key, float(assets.models(kind)[key].get("density", 1000)))


@cache
def _table(number: int, height: int, width: int) -> np.ndarray:
    return overlay.resize(assets.table(number), height, width).round().astype(np.uint8)

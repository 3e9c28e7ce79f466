"""One CALVIN episode slot over pybullet: calvin_env's own physics, robot and scene, without its rendering at each step.

An ``Episode`` fixes the start bit for bit. calvin_env alone does not do that: what is left of contacts, motors and
buttons reaches into the next episode. So every reset here starts from a snapshot of the untouched scene.
"""

import contextlib
import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from pirl_core import seeds
from pirl_core.envs import assets
from pirl_core.envs.calvin.facts import FACTS, SEQUENCE, STARTS
from pirl_core.envs.calvin.oracle import solved
from pirl_core.envs.calvin.sequences import ROBOT, SUBTASK_STEPS, Sequence, draw_other, scene_of, sequences
from pirl_core.envs.calvin.subtasks import COLOURS, SUBTASKS
from pirl_core.envs.contract import Settings, stack_frames
from pirl_core.errors import UserError
from pirl_core.types import Episode


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what pybullet's C++ prints, gym's notice of its age and hydra's of its next version."""
    kept, nowhere = (os.dup(1), os.dup(2)), os.open(os.devnull, os.O_WRONLY)
    _turn(nowhere, nowhere)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _turn(*kept)
        for descriptor in (*kept, nowhere):
            os.close(descriptor)


def _turn(*targets: int) -> None:
    """Standard output and standard error to these descriptors, once what Python and C hold back has been written."""
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)
    for descriptor, target in enumerate(targets, start=1):
        os.dup2(target, descriptor)


try:
    with _silent():
        import gym  # noqa: F401
        import hydra
        from omegaconf import OmegaConf
    _CLONE = assets.find("calvin").resolve()
    sys.path.append(str(_CLONE))  # it is no package of the index
    with _silent():
        from calvin_env.envs import play_table_env
        from calvin_env.robot import robot as calvin_robot
except ImportError as error:
    raise UserError(
        f"env.benchmark = calvin: calvin_env cannot be imported ({error}); run make setup EXTRAS=calvin"
    ) from None

# It asks git for the clone's revision only to log it, and fails on a downloaded archive.
play_table_env.get_git_commit_hash = lambda _: "unknown"

ARM = slice(7, 14)
BLOCKS = slice(6, 24)
ARM_NOISE = 0.03
"""Of shift random: greatest displacement of each joint, rad."""
TABLE_MIDDLE = 0.175
"""Of scene D along x, m; in other scenes blocks lie as far from the middle of the table."""
BLOCK_NOISE = 0.02
"""Of shift random: greatest displacement of a block on the table along x and y, m."""


class _Robot(calvin_robot.Robot):
    """calvin_env's; its base is drawn in its own world, where another simulator of the process came first."""

    def add_base_cylinder(self) -> None:
        bullet = play_table_env.p
        angle = bullet.getEulerFromQuaternion(self.base_orientation)[2]
        x, y, z = self.base_position
        shape = bullet.createVisualShape(
            shapeType=bullet.GEOM_CYLINDER,
            rgbaColor=[1, 1, 1, 1],
            radius=0.13,
            length=z,
            visualFramePosition=[x - 0.05 * np.cos(angle), y - 0.05 * np.sin(angle), z / 2],
            physicsClientId=self.cid,
        )
        bullet.createMultiBody(baseVisualShapeIndex=shape, physicsClientId=self.cid)


class _World(play_table_env.PlayTableSimEnv):
    """calvin_env's; closes without a word, and once: by the time it is collected its number may be another's."""

    cid: int

    def close(self) -> None:
        number, self.cid = self.cid, -1
        if number >= 0:
            self.p.disconnect(physicsClientId=number)


ROBOT_FILE = "franka_panda/panda_longer_finger.urdf"


def build(scene: str, coarse: bool = False) -> Any:
    """calvin_env's environment of a scene, as its configuration has it, drawn by pybullet's software renderer.

    coarse: arm and hand are drawn as the shapes that collide, a fourth of the time. Physics is the same.
    """
    conf = _CLONE / "conf"

    def read(name: str) -> Any:
        part = OmegaConf.load(conf / f"{name}.yaml")
        part.pop("defaults", None)
        return part

    cameras = {name: read(f"cameras/cameras/{name}") for name in FACTS.cameras}
    config = OmegaConf.create(
        {
            "data_path": "data",
            "use_vr": False,
            "cameras": cameras,
            "scene": read(f"scene/calvin_scene_{scene}"),
            "robot": OmegaConf.merge(read("robot/panda"), read("robot/panda_longer_finger")),
            "env": read("env/play_table_env"),
        }
    )
    config.env.merge_with({"_target_": f"{__name__}._World", "use_egl": False, "use_scene_info": True})
    config.robot._target_ = f"{__name__}._Robot"
    # The scenes list their blocks in orders of their own; scene observations are read and written in this one.
    objects = config.scene.objects
    objects.movable_objects = {f"block_{colour}": objects.movable_objects[f"block_{colour}"] for colour in COLOURS}
    with _silent(), TemporaryDirectory() as folder:
        if coarse:
            config.robot.filename = str(_coarse_robot(Path(folder)))
        return hydra.utils.instantiate(config.env)


def _coarse_robot(folder: Path) -> Path:
    """The robot's file, written into the folder, with the meshes of its links that collide for those that are drawn."""
    own = _CLONE / "data" / ROBOT_FILE
    text = own.read_text()
    for part in ("link", "hand"):
        text = text.replace(f"package://meshes/visual/{part}", f"package://meshes/collision/{part}")
    written = folder / own.name
    written.write_text(text.replace("package://", f"{own.parent}/"))
    return written


class CalvinEnv:
    """A simulator of one scene; plays any task in it."""

    def __init__(self, scene: str, settings: Settings):
        self.scene = scene
        self._settings = settings
        self._state_dim = FACTS.state_dim(settings.object_state)
        self.env = build(scene, coarse=settings.fast_render)
        self._cameras = {camera.name: camera for camera in self.env.cameras}
        self.env.cameras = []  # else each step of calvin_env's renders
        # calvin_env asks for it too, then makes a new world, which forgets it.
        self.env.p.setPhysicsEngineParameter(deterministicOverlappingPairs=1)
        self._snapshot = self.env.p.saveState()
        self._plan: tuple[str, ...] = ()
        self._done = 0
        self._over = True

    def fits(self, episode: Episode) -> bool:
        return episode.task.split("/")[0] == self.scene

    def reset(self, episode: Episode) -> np.ndarray:
        """Start the episode; returns the state (S,) float32. Raises UserError for an unknown shift."""
        if not self.fits(episode):
            raise ValueError(f"this slot simulates scene {self.scene}, not {episode.task}")
        FACTS.check_shift(episode.shift)
        rng = seeds.generator("start", episode.seed)
        condition, self._plan = _beginning(episode, rng)
        robot, scene = ROBOT.copy(), self._moved_to_scene(scene_of(condition))
        if episode.shift == "random":
            robot[ARM] += rng.uniform(-ARM_NOISE, ARM_NOISE, 7)
            places = scene[BLOCKS].reshape(3, 6)[:, :2]
            # In the cabinet there is no room: a displaced block would push the door.
            places += rng.uniform(-BLOCK_NOISE, BLOCK_NOISE, (3, 2)) * (places[:, 1:] < 0)
        self._restore()
        self.env.reset(robot_obs=robot, scene_obs=scene)
        self._subtask_steps = self._done = 0
        self._over = False
        self._read()
        self._start = self._info
        return self.state()

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """Apply one action (7,), clipped to [-1, 1]; returns reward, terminated, truncated.

        The reward is 1.0 where a subtask is solved. The episode ends with the last one, or when a subtask has had
        ``env.episode_steps``, at most the protocol's 360.
        """
        if self._over:
            raise RuntimeError(f"CALVIN {self.scene}: step after the episode's end; reset first")
        command = np.clip(action, -1.0, 1.0).astype(np.float64)
        command[6] = 1.0 if command[6] > 0 else -1.0
        self.env.step(command)
        self._read()
        self._subtask_steps += 1
        success = solved(self._plan[self._done], self._start, self._info)
        if success:
            # The next subtask is judged by what has changed from here on.
            self._done, self._subtask_steps, self._start = self._done + 1, 0, self._info
        terminated = self._done == len(self._plan)
        truncated = not terminated and self._subtask_steps >= min(self._settings.episode_steps, SUBTASK_STEPS)
        self._over = terminated or truncated
        return float(success), terminated, truncated

    def state(self) -> np.ndarray:
        """What the policy reads now, (S,) float32: the first of the robot's 15 numbers, or these and the scene's 24."""
        numbers: np.ndarray = self._numbers[: self._state_dim].astype(np.float32)
        return numbers

    def instruction(self) -> str:
        return SUBTASKS[self.subtask()].sentence

    def subtask(self) -> str:
        """The one at hand; after the episode's end the last."""
        return self._plan[min(self._done, len(self._plan) - 1)]

    def images(self) -> np.ndarray:
        """(C, image_size, image_size, 3) uint8, upright."""
        want = self._settings
        frames = [self.picture(camera, want.image_size, want.fast_render) for camera in want.cameras]
        return stack_frames(frames, want.image_size)

    def picture(self, camera: str, size: int, fast: bool) -> np.ndarray:
        """(size, size, 3) uint8, upright. Fast: rendered in that size; else in CALVIN's (200 or 84), then resized with
        Pillow's bilinear filter, as openpi resizes. The arm is drawn as ``fast_render`` of the settings has it."""
        eye = self._cameras[camera]
        full = eye.width, eye.height
        if fast:
            eye.width = eye.height = size
        try:
            frame = np.ascontiguousarray(eye.render()[0], np.uint8)
        finally:
            eye.width, eye.height = full
        if frame.shape[0] == size:
            return frame
        return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR))

    def close(self) -> None:
        self.env.close()

    def _restore(self) -> None:
        """The untouched scene, and what calvin_env's Python objects remember."""
        bullet = self.env.p
        # Bodies that touch keep points of contact which restoring does not take from them: part them first.
        bodies = [self.env.robot.robot_uid, *(block.uid for block in self.env.scene.movable_objects)]
        for height, body in enumerate(bodies):
            bullet.resetBasePositionAndOrientation(body, (0, 0, 10 + 5 * height), (0, 0, 0, 1))
        bullet.performCollisionDetection()
        bullet.restoreState(self._snapshot)
        self.env.robot.gripper_action = 1
        for button in self.env.scene.buttons:
            button.prev_is_pressed = False

    def _read(self) -> None:
        robot, _ = self.env.robot.get_observation()
        self._numbers = np.concatenate([robot, self.env.scene.get_obs()])
        self._info = self.env.get_info()
        if not np.isfinite(self._numbers).all():
            raise RuntimeError(f"CALVIN {self.scene}: the simulation diverged")

    def _moved_to_scene(self, scene: np.ndarray) -> np.ndarray:
        """Scene observation with the blocks where this scene's surfaces are; the published one is scene D's."""
        if self.scene == "D":
            return scene
        surfaces = {name: np.array(bounds) for name, bounds in self.env.scene.surfaces.items()}
        for block in scene[BLOCKS].reshape(3, 6):
            if block[1] < 0:
                low, high = surfaces["table"]
                block[0] += (low[0] + high[0]) / 2 - TABLE_MIDDLE
            else:
                low, high = surfaces["slider_left" if block[0] < 0 else "slider_right"]
                block[0] = (low[0] + high[0]) / 2
        return scene


def _beginning(episode: Episode, rng: np.random.Generator) -> Sequence:
    """The one of that number; under shift random a drawn condition, and a sequence that evaluation does not play."""
    name = episode.task.split("/")[1]
    if name == SEQUENCE and episode.shift == "random":
        return draw_other(rng)
    listed = sequences() if name == SEQUENCE else [Sequence(condition, (name,)) for condition in STARTS[name]]
    index = int(rng.integers(len(listed))) if episode.shift == "random" else episode.number % len(listed)
    return listed[index]

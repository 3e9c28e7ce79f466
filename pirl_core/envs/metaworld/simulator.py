"""One MetaWorld v3 episode slot: episode in, sparse reward out.

An ``Episode`` fixes the start bit for bit. MetaWorld alone does not do that: its resets edit ``body_pos`` and
``site_pos`` of the model and leave attributes behind, and its first observation shows the object where the previous
episode had it. So every reset here starts from the pristine model, attributes and a physics snapshot.
"""

import copy
import functools
import math
from typing import Any

import mujoco
import numpy as np
from gymnasium.spaces import Box
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from pirl_core import seeds
from pirl_core.envs.contract import Settings
from pirl_core.envs.drawing.mujoco import EDITED, Look, renderer
from pirl_core.envs.metaworld import real
from pirl_core.envs.metaworld.facts import FACTS
from pirl_core.envs.metaworld.shifts import draw_outside, perturb_looks
from pirl_core.types import Episode

CORNER2_POSITION = (0.75, 0.075, 0.7)
"""Camera pose of lerobot/metaworld_mt50: nearer to the table than MetaWorld's own."""

HEAVY_FACES = 1500

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


def _box_the_arm(model: mujoco.MjModel) -> None:
    """Fast frames: the robot's 11 heavy meshes become their bounding boxes; task objects stay as they are."""
    robot = model.body_rootid[model.body("right_hand").id]
    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_MESH):
        light = model.mesh_facenum[model.geom_dataid[geom]] <= HEAVY_FACES
        if light or model.body_rootid[model.geom_bodyid[geom]] != robot:
            continue
        centre = np.zeros(3)
        mujoco.mju_rotVecQuat(centre, model.geom_aabb[geom, :3], model.geom_quat[geom])
        model.geom_pos[geom] += centre
        model.geom_size[geom] = model.geom_aabb[geom, 3:]
        model.geom_type[geom] = mujoco.mjtGeom.mjGEOM_BOX
        model.geom_dataid[geom] = -1


def _upright(camera: str, pixels: np.ndarray) -> np.ndarray:
    """MetaWorld's corner cameras stand on their head."""
    return pixels[:, ::-1] if camera.startswith("corner") else pixels[::-1]


@functools.cache
def _compiled(path: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(path)


@functools.cache
def _environment_class(task: str) -> type:
    """MetaWorld's class of the task, its model copied from a cache (15 ms) instead of compiled from XML (300 ms), its
    observation put together faster."""
    base: Any = ALL_V3_ENVIRONMENTS[task]

    def simulation(env: Any) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = copy.copy(_compiled(env.fullpath))
        return model, mujoco.MjData(model)

    own = {"_initialize_simulation": simulation, "_get_curr_obs_combined_no_goal": observe}
    return type(base.__name__, (base,), own)


def observe(env: Any) -> np.ndarray:
    """Hand, gripper opening, then position and quaternion of up to two objects: (18,).

    MetaWorld's own numbers bit for bit, without the splitting and stacking that take it a sixth of a step.
    """
    observation = np.zeros(4 + env._obs_obj_max_len)
    observation[:3] = env.get_endeff_pos()
    gap = env.data.body("rightclaw").xpos - env.data.body("leftclaw").xpos
    observation[3] = min(math.sqrt(gap.dot(gap)) / 0.1, 1.0)
    position, quaternion = env._get_pos_objects(), env._get_quat_objects()
    for index in range(len(position) // 3):
        start = 4 + 7 * index
        observation[start : start + 3] = position[3 * index : 3 * index + 3]
        observation[start + 3 : start + 7] = quaternion[4 * index : 4 * index + 4]
    return observation


def _construct(task: str) -> Any:
    """MetaWorld's environment with visible goal, own random start on each reset, and no time limit."""
    env = _environment_class(task)()
    env._partially_observable = False
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    env._set_task_called = True
    env.max_path_length = np.iinfo(np.int64).max
    # MetaWorld clips the observed goal to its own goal box, which the position shift leaves.
    unbounded = np.full(FACTS.object_state, np.inf)
    env.__dict__["sawyer_observation_space"] = Box(-unbounded, unbounded, dtype=np.float64)
    env.model.cam_pos[env.model.camera("corner2").id] = CORNER2_POSITION
    return env


def simulate_settling(env: Any) -> np.ndarray:
    """Physics state after MetaWorld's 50 steps that bring the hand to its start, from the pristine model."""
    mujoco.mj_resetData(env.model, env.data)
    env._reset_hand()
    state = np.empty(mujoco.mj_stateSize(env.model, _STATE))
    mujoco.mj_getState(env.model, env.data, state, _STATE)
    return state


@functools.cache
def settled_state(task: str) -> np.ndarray:
    """The outcome of ``simulate_settling``; it is the same for every episode of the task, so simulated once."""
    env = _construct(task)
    state = simulate_settling(env)
    # As in MetaWorldEnv.close: otherwise 20 MB stay until Python's collector comes by.
    env.__dict__.clear()
    return state


class MetaWorldEnv:
    """A simulator for one task that plays one episode after another."""

    look = Look(_box_the_arm, _upright)

    def __init__(self, task: str, settings: Settings):
        self.task = task
        self._settings = settings
        self._state_dim = FACTS.state_dim(settings.object_state)
        self._env = _construct(task)
        self.model: mujoco.MjModel = self._env.model
        self.data: mujoco.MjData = self._env.data
        self.xml: str = self._env.fullpath
        self._model_start = {name: getattr(self.model, name).copy() for name in (*EDITED, *real.PHYSICS)}
        self._attributes = _own_attributes(self._env)
        self._observation = np.zeros(FACTS.object_state)
        self._real = False
        self._steps = 0
        self._over = True

    def fits(self, episode: Episode) -> bool:
        return episode.task == self.task

    def reset(self, episode: Episode) -> np.ndarray:
        """Start the episode; returns the state (S,) float32. Raises UserError for an unknown shift."""
        if episode.task != self.task:
            raise ValueError(f"this slot simulates {self.task}, not {episode.task}")
        FACTS.check_shift(episode.shift)
        self._restore()
        env = self._env
        env._reset_hand = self._load_settled
        if episode.shift == "position":
            env._get_state_rand_vec = self._draw_shifted_start
        # Twice with the same draws: resets read positions that depend on edits they make further down.
        for _ in range(2):
            env.np_random = seeds.generator("start", episode.seed)
            env.reset_model()
        if episode.shift == "visual":
            perturb_looks(self.model, seeds.generator("looks", episode.seed))
        self._real = episode.shift == "real"
        if self._real:
            real.enter(self.model)
        self._forward()
        env._prev_obs = env._get_curr_obs_combined_no_goal()
        self._observation = env._get_obs()
        self._steps = 0
        self._over = False
        return self.state()

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """Apply one action (4,), clipped to [-1, 1]; returns reward, terminated, truncated.

        The reward is 1.0 on the first success, which ends the episode; else 0.0.
        """
        if self._over:
            raise RuntimeError(f"{self.task}: step after the episode's end; reset first")
        told = np.clip(action, -1.0, 1.0).astype(np.float64)
        self._observation, _, _, _, info = self._env.step(real.done(told) if self._real else told)
        if not np.isfinite(self._observation).all():
            raise RuntimeError(f"{self.task}: the simulation diverged at step {self._steps}")
        self._steps += 1
        success = bool(info["success"])
        truncated = not success and self._steps >= self._settings.episode_steps
        self._over = success or truncated
        return float(success), success, truncated

    def state(self) -> np.ndarray:
        """What the policy reads now, (S,) float32."""
        observation = real.seen(self._observation) if self._real else self._observation
        return observation[: self._state_dim].astype(np.float32)

    def instruction(self) -> str:
        return FACTS.tasks[self.task].sentences[0]

    def images(self) -> np.ndarray:
        """(C, image_size, image_size, 3) uint8, upright. Raises UserError when OpenGL is missing."""
        want = self._settings
        return renderer().frames(self, want.cameras, want.image_size, "fast" if want.fast_render else "full")

    def picture(self, camera: str, size: int, fast: bool) -> np.ndarray:
        """(size, size, 3) uint8, upright."""
        frame: np.ndarray = renderer().frames(self, [camera], size, "fast" if fast else "film")[0]
        return frame

    def full_observation(self) -> np.ndarray:
        """MetaWorld's own observation (39,) float64, for the scripted experts."""
        return self._observation.copy()

    def close(self) -> None:
        """Give up the 20 MB of model and data now: MetaWorld's objects refer to each other in circles, which Python's
        collector counts by objects, not by bytes, and lets grow by gigabytes."""
        self._env.__dict__.clear()
        self.__dict__.clear()

    def _restore(self) -> None:
        for name, value in self._model_start.items():
            getattr(self.model, name)[:] = value
        for name in set(self._env.__dict__) - set(self._attributes):
            del self._env.__dict__[name]
        self._env.__dict__.update(_copied(self._attributes, self.data))

    def _load_settled(self) -> None:
        mujoco.mj_setState(self.model, self.data, settled_state(self.task), _STATE)
        mujoco.mj_forward(self.model, self.data)
        self._env.init_tcp = self._env.tcp_center

    def _draw_shifted_start(self) -> np.ndarray:
        vector = draw_outside(self._env._random_reset_space, self._env.np_random)
        self._env._last_rand_vec = vector
        return vector

    def _forward(self) -> None:
        mujoco.mj_forward(self.model, self.data)
        for name, position in self._env._target_site_config:
            self._env._set_pos_site(name, position)


def _own_attributes(env: Any) -> dict[str, Any]:
    """Attributes as constructed; those in the tuple hold the simulator itself and are never replaced."""
    kept = ("model", "data", "mujoco_renderer", "_np_random")
    return _copied({name: value for name, value in env.__dict__.items() if name not in kept}, env.data) | {
        name: env.__dict__[name] for name in kept if name in env.__dict__
    }


def _copied(attributes: dict[str, Any], data: mujoco.MjData) -> dict[str, Any]:
    """Copies of arrays, lists and dictionaries; live views of the simulator's positions stay views."""
    return {
        name: copy.deepcopy(value)
        if isinstance(value, (np.ndarray, dict, list)) and not _is_view(value, data)
        else value
        for name, value in attributes.items()
    }


def _is_view(value: Any, data: mujoco.MjData) -> bool:
    return isinstance(value, np.ndarray) and np.may_share_memory(value, data.xpos)

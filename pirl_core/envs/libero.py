"""One LIBERO episode slot: robosuite's physics and controller, reset in place, drawn only when asked.

An ``Episode`` fixes the start bit for bit, whatever was played before: placements come from a generator that the
episode seeds, physics starts from MuJoCo's reset, and the controller is a new one. LIBERO's own wrapper rebuilds the
simulator at each reset (1 to 2 s) and computes and draws every observation at each step.
"""

import copy
import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import numpy as np

from pirl_core.envs.benchmarks import Settings
from pirl_core.envs.coarse import coarsen
from pirl_core.envs.libero_files import problems, scene_file, stored_states
from pirl_core.envs.libero_tasks import FACTS, FILES
from pirl_core.envs.render import Look, Renderer
from pirl_core.errors import UserError
from pirl_core.types import Episode

WAIT_STEPS = 15
"""Steps with an open hand before the policy acts, for objects to come to rest, as in the official runs."""

CAMERAS = {"agentview": "agentview", "eye_in_hand": "robot0_eye_in_hand"}
WAIT = np.array([0, 0, 0, 0, 0, 0, -1], np.float64)


@functools.cache
def _renderer() -> Renderer:
    """One a process: simulators of equal tasks share what OpenGL holds of them."""
    return Renderer()


@functools.cache
def _compiled(xml: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(xml)


@functools.cache
def _environment_class(problem: str) -> type:
    """LIBERO's class of the problem, its model copied from a cache (20 ms) instead of compiled from XML (1 s)."""
    from robosuite.utils.binding_utils import MjSim

    def simulation(env: Any, xml_string: str | None = None) -> None:
        env.compiled = _compiled(env.model.get_xml())
        env.sim = MjSim(copy.copy(env.compiled))
        env.sim.forward()
        env.initialize_time(env.control_freq)

    base: Any = problems()[problem]
    return type(base.__name__, (base,), {"_initialize_sim": simulation})


def _construct(task: str) -> Any:
    """LIBERO's environment with its evaluation settings, without cameras and without its own time limit."""
    problems()
    from libero.libero.envs.bddl_utils import get_problem_info
    from robosuite import load_controller_config

    file = str(scene_file(task))
    with _drawing_from(0):
        return _environment_class(get_problem_info(file)["problem_name"])(
            file,
            robots=["Panda"],
            controller_configs=load_controller_config(default_controller="OSC_POSE"),
            initialization_noise=None,
            use_camera_obs=False,
            has_offscreen_renderer=False,
            ignore_done=True,
            control_freq=FACTS.rate,
            hard_reset=False,
        )


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """LIBERO draws its placements from numpy's global generator: it has the seed in here, and is as before after."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """Rotation (w, x, y, z) → axis times angle in [0, 2π], as LIBERO's data has it: (3,)."""
    w = min(max(float(quaternion[0]), -1.0), 1.0)
    sine = math.sqrt(1 - w * w)
    return np.zeros(3) if math.isclose(sine, 0.0) else quaternion[1:] * (2 * math.acos(w) / sine)


def _upright(camera: str, pixels: np.ndarray) -> np.ndarray:
    """LIBERO's own pictures have the bottom row first; published policies see them turned by 180°: upright, and left
    for right."""
    return pixels[::-1, ::-1]


class LiberoEnv:
    """A simulator for one task that plays one episode after another."""

    # Group 0 holds the shapes of collisions.
    look = Look(coarsen, _upright, hidden=(0,))

    def __init__(self, task: str, settings: Settings):
        self.task = task
        self._settings = settings
        self._state_dim = FACTS.state_dim(settings.object_state)
        self.env = _construct(task)
        self.model: mujoco.MjModel = self.env.sim.model._model
        self.data: mujoco.MjData = self.env.sim.data._data
        self.xml: str = "/".join(FILES[task])
        robot = self.env.robots[0]
        self._fingers = list(robot._ref_gripper_joint_pos_indexes)
        own = [*robot._ref_joint_pos_indexes, *self._fingers]
        self._others = [index for index in range(self.model.nq) if index not in own]
        self._steps = 0
        self._over = True

    def fits(self, episode: Episode) -> bool:
        return episode.task == self.task

    def reset(self, episode: Episode) -> np.ndarray:
        """Start the episode; returns the state (S,) float32. Raises UserError for an unknown shift.

        stored: the stored state number ``episode.number`` mod 50; where furniture stands (within a cm) no stored state
        says, so that, and the whole start of ``none``, is drawn from the episode's seed.
        """
        if episode.task != self.task:
            raise ValueError(f"this slot simulates {self.task}, not {episode.task}")
        if episode.shift not in ("none", *FACTS.shifts):
            raise UserError(f"shift '{episode.shift}' is unknown; give none or {' or '.join(FACTS.shifts)}")
        # LIBERO adds furniture's place to that of what stands on it, so the model has to be as compiled.
        for name in ("body_pos", "body_quat", "site_rgba"):
            getattr(self.model, name)[:] = getattr(self.env.compiled, name)
        with _drawing_from(episode.seed):
            self._place()
        if episode.shift == "stored":
            states = stored_states(self.task)
            self.env.sim.set_state_from_flattened(states[episode.number % len(states)])
        self.env.sim.forward()
        # Else a ball and a ray mark where the hand grips.
        self.env.visualize(dict.fromkeys(self.env._visualizations, False))
        for _ in range(WAIT_STEPS):
            self._simulate(WAIT)
        self._steps = 0
        self._over = False
        return self.state()

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """Apply one action (7,), clipped to [-1, 1]; returns reward, terminated, truncated.

        The reward is 1.0 on success, which ends the episode; else 0.0.
        """
        if self._over:
            raise RuntimeError(f"{self.task}: step after the episode's end; reset first")
        success = self._simulate(np.clip(action, -1.0, 1.0).astype(np.float64))
        if not np.isfinite(self.data.qpos).all():
            raise RuntimeError(f"{self.task}: the simulation diverged at step {self._steps}")
        self._steps += 1
        truncated = not success and self._steps >= self._settings.episode_steps
        self._over = success or truncated
        return float(success), success, truncated

    def state(self) -> np.ndarray:
        """What the policy reads now, (S,) float32."""
        robot = self.env.robots[0]
        state = np.zeros(self._state_dim, np.float32)
        state[:3] = self.data.site_xpos[robot.eef_site_id]
        state[3:6] = axis_angle(self.data.body(robot.robot_model.eef_name).xquat)
        state[6:8] = self.data.qpos[self._fingers]
        if self._settings.object_state:
            state[8 : 8 + len(self._others)] = self.data.qpos[self._others]
        return state

    def instruction(self) -> str:
        return FACTS.tasks[self.task].sentences[0]

    def images(self) -> np.ndarray:
        """(C, image_size, image_size, 3) uint8, upright. Raises UserError when OpenGL is missing."""
        want = self._settings
        names = [CAMERAS[camera] for camera in want.cameras]
        return _renderer().frames(self, names, want.image_size, want.fast_render)

    def picture(self, camera: str, size: int, fast: bool) -> np.ndarray:
        """(size, size, 3) uint8, upright."""
        frame: np.ndarray = _renderer().frames(self, [CAMERAS[camera]], size, fast)[0]
        return frame

    def close(self) -> None:
        """Give up model and data now; robosuite's objects refer to each other in circles."""
        self.env.sim.__dict__.clear()
        self.env.__dict__.clear()
        self.__dict__.clear()

    def _place(self) -> None:
        """robosuite's reset of what moves, tried again where objects find no room, as LIBERO does."""
        from robosuite.utils.errors import RandomizationError

        while True:
            self.env.sim.reset()
            for robot in self.env.robots:
                robot.gripper.current_action = np.zeros(robot.gripper.dof)
            try:
                self.env._reset_internal()
            except RandomizationError:
                continue
            return

    def _simulate(self, action: np.ndarray) -> bool:
        """One control step, robosuite's without its observations: 25 of physics. Returns whether the task is solved."""
        env = self.env
        first = True
        for _ in range(int(env.control_timestep / env.model_timestep)):
            env.sim.forward()
            env._pre_action(action, first)
            env.sim.step()
            first = False
        success = bool(env._check_success())
        env._post_process()
        return success

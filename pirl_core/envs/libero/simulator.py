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

from pirl_core import seeds
from pirl_core.envs.contract import Settings
from pirl_core.envs.drawing.coarse import merged
from pirl_core.envs.drawing.mujoco import Look, renderer
from pirl_core.envs.libero.facts import FACTS, FILES
from pirl_core.envs.libero.files import problems, scene_file, stored_states
from pirl_core.types import Episode

WAIT_STEPS = 15
"""Steps with an open hand before the policy acts, for objects to come to rest, as in the official RL runs."""

CAMERAS = {"agentview": "agentview", "eye_in_hand": "robot0_eye_in_hand"}
WAIT = np.array([0, 0, 0, 0, 0, 0, -1], np.float64)


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
def _drawing_from(episode_seed: int) -> Iterator[None]:
    """LIBERO draws its placements from numpy's global generator: the episode seeds it here, after it is as before."""
    before = np.random.get_state()
    np.random.seed(seeds.simulator_seed(episode_seed))
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


def _coarsen(model: mujoco.MjModel) -> None:
    """Give the model's meshes fewer faces, in place. It must not be simulated after."""
    for mesh in range(model.nmesh):
        start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        faces = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
        vertices, kept, corners = merged(model.mesh_vert[start : start + count], model.mesh_face[faces])
        for part in (model.mesh_facenormal, model.mesh_facetexcoord):
            part[faces][: len(kept)] = part[faces][kept]
        model.mesh_face[faces][: len(kept)] = vertices[corners]
        model.mesh_facenum[mesh] = len(kept)


class LiberoEnv:
    """A simulator for one task that plays one episode after another."""

    # Group 0 holds the shapes of collisions.
    look = Look(_coarsen, _upright, hidden=(0,))

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
        FACTS.check_shift(episode.shift)
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
        return renderer().frames(self, names, want.image_size, "fast" if want.fast_render else "full")

    def picture(self, camera: str, size: int, fast: bool) -> np.ndarray:
        """(size, size, 3) uint8, upright."""
        frame: np.ndarray = renderer().frames(self, [CAMERAS[camera]], size, "fast" if fast else "film")[0]
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
        """One control step, robosuite's bit for bit without its observations. Returns whether the task is solved.

        robosuite computes the whole dynamics three times for each of the 25 steps of physics: before the controller,
        in it and in the step. Once does for what does not depend on the torques; the solver of contacts starts from its
        last answer, so it has to run as often as there.
        """
        env = self.env
        robot = env.robots[0]
        controller, arm = robot.controller, robot._ref_joint_actuator_indexes
        low, high = robot.torque_limits
        for substep in range(int(env.control_timestep / env.model_timestep)):
            mujoco.mj_step1(self.model, self.data)
            self._solve()
            # Not so in an episode's first step: the controller then still knows the arm's pose before the stored state.
            if controller.new_update:
                self._solve()
                self._inform(controller)
            if substep == 0:
                controller.set_goal(action[: controller.control_dim])
            torques = controller.run_controller()
            robot.grip_action(robot.gripper, action[controller.control_dim :])
            self.data.ctrl[arm] = np.clip(torques, low, high)
            mujoco.mj_step2(self.model, self.data)
        success = bool(env._check_success())
        env._post_process()
        return success

    def _solve(self) -> None:
        """The part of ``mj_forward`` that follows ``mj_step1``."""
        mujoco.mj_forwardSkip(self.model, self.data, mujoco.mjtStage.mjSTAGE_VEL, 1)

    def _inform(self, controller: Any) -> None:
        """What the controller's ``update`` reads, in its memory layouts, on which the last bit depends."""
        model, data, site, arm = self.model, self.data, self.env.robots[0].eef_site_id, controller.qvel_index
        along, about, inertia = np.zeros((3, model.nv)), np.zeros((3, model.nv)), np.empty((model.nv, model.nv))
        mujoco.mj_jacSite(model, data, along, about, site)
        mujoco.mj_fullM(model, inertia, data.qM)
        controller.ee_pos = data.site_xpos[site].copy()
        controller.ee_ori_mat = data.site_xmat[site].reshape(3, 3).copy()
        controller.ee_pos_vel, controller.ee_ori_vel = np.dot(along, data.qvel), np.dot(about, data.qvel)
        controller.joint_pos, controller.joint_vel = data.qpos[controller.qpos_index], data.qvel[arm]
        controller.J_pos, controller.J_ori = np.array(along[:, arm]), np.array(about[:, arm])
        controller.J_full = np.vstack([controller.J_pos, controller.J_ori])
        controller.mass_matrix = inertia[arm, :][:, arm]
        controller.new_update = False

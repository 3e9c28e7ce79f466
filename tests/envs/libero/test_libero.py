"""The LIBERO adapter: starts fixed by the episode alone, LIBERO's own physics, state and pictures, the expert."""

import os
import subprocess
import sys
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from pirl_core.envs.contract import EpisodeOver, Settings
from pirl_core.envs.libero.facts import FACTS
from pirl_core.errors import UserError
from pirl_core.types import Episode
from tests.envs.libero.libero_assets import needs_assets

pytestmark = needs_assets
TASK = "libero_object_4"
DRAWER = "libero_spatial_4"
STATES = Settings("libero", 200, [], 64, True, True, "cpu")
_opened: dict[str, Any] = {}


def simulator(task: str) -> Any:
    from pirl_core.envs.libero.simulator import LiberoEnv

    if task not in _opened:
        _opened[task] = LiberoEnv(task, STATES)
    return _opened[task]


def course(env: Any, episode: Episode, steps: int = 6) -> np.ndarray:
    """States from the start on under fixed random actions, with everything that decides how it goes on."""
    env.reset(episode)
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(steps):
        rows.append(np.concatenate([env.state(), env.data.qpos, env.data.qvel, env.model.body_pos.ravel()]))
        env.step(rng.uniform(-1, 1, 7))
    return np.stack(rows)


@pytest.mark.parametrize("task", [TASK, DRAWER])
@pytest.mark.parametrize("shift", ["none", "stored"])
def test_start_and_course_are_fixed_by_the_episode_alone(task: str, shift: str) -> None:
    env = simulator(task)
    episode = Episode(task, 7, shift, 3)
    first = course(env, episode)
    course(env, Episode(task, 8, "none"), 3)
    assert np.array_equal(course(env, episode), first)
    assert not np.array_equal(course(env, Episode(task, 9, shift, 4), 1)[0], first[0])


def test_another_process_takes_the_same_course() -> None:
    code = (
        "import sys; from tests.envs.libero.test_libero import *;"
        f"sys.stdout.buffer.write(course(simulator('{TASK}'), Episode('{TASK}', 5, 'stored', 2)).tobytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, check=True)
    other = np.frombuffer(done.stdout)
    course(simulator(TASK), Episode(TASK, 1), 2)
    assert np.array_equal(course(simulator(TASK), Episode(TASK, 5, "stored", 2)).ravel(), other)


def test_plays_like_libero_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """LIBERO's own wrapper from the same stored state: the same course bit for bit, the same state and pictures.

    Given the same last answer of the solver, which theirs has from the placement it drew before the stored state. Their
    observations are those of some 2 ms before the end of a step, so they are asked for anew."""
    from pirl_core.envs.drawing.mujoco import renderer
    from pirl_core.envs.libero import simulator as libero
    from pirl_core.envs.libero.files import scene_file, stored_states

    ours = simulator(TASK)  # imports LIBERO without its prompt
    from libero.libero.envs.env_wrapper import OffScreenRenderEnv

    monkeypatch.setattr(libero, "WAIT_STEPS", 0)
    ours.reset(Episode(TASK, 0, "stored", 4))
    theirs = OffScreenRenderEnv(bddl_file_name=str(scene_file(TASK)), camera_heights=64, camera_widths=64)
    theirs.reset()
    theirs.set_init_state(stored_states(TASK)[4])
    data = theirs.sim.data._data
    data.qacc_warmstart[:] = ours.data.qacc_warmstart
    rng = np.random.default_rng(1)
    for action in [*[libero.WAIT] * 3, *rng.uniform(-1, 1, (5, 7))]:
        theirs.step(action)
        ours.step(action)
        assert np.array_equal(ours.data.qpos, data.qpos)
        assert np.array_equal(ours.data.qvel, data.qvel)
    theirs._update_observables(force=True)
    observation = theirs.env._get_observations()
    rotation = libero.axis_angle(np.roll(observation["robot0_eef_quat"], 1))
    parts = [observation["robot0_eef_pos"], rotation, observation["robot0_gripper_qpos"]]
    assert np.array_equal(ours.state()[:8], np.concatenate(parts).astype(np.float32))
    for camera, name in (("agentview", "agentview_image"), ("eye_in_hand", "robot0_eye_in_hand_image")):
        full = renderer().frames(ours, [libero.CAMERAS[camera]], 64, "full")[0]
        difference = np.abs(full.astype(int) - observation[name][::-1, ::-1])
        assert difference.mean() < 2, camera
        assert np.abs(ours.picture(camera, 64, True).astype(int) - observation[name][::-1, ::-1]).mean() < 25, camera
    theirs.close()


def test_state_and_its_end() -> None:
    env = simulator(TASK)
    env.reset(Episode(TASK, 1, "stored", 0))
    assert env.state().shape == (FACTS.object_state,)
    assert env.state().dtype == np.float32
    with pytest.raises(UserError, match="stored"):
        env.reset(Episode(TASK, 1, "visual"))


def test_libero_fills_no_global_generator() -> None:
    np.random.seed(3)
    expected = np.random.uniform(size=3)
    np.random.seed(3)
    simulator(TASK).reset(Episode(TASK, 1))
    assert np.array_equal(np.random.uniform(size=3), expected)


def test_expert_refuses_what_it_cannot_show() -> None:
    from pirl_core.envs.libero.expert import show

    env = simulator("libero_goal_0")
    env.reset(Episode("libero_goal_0", 1000, "stored", 0))
    with pytest.raises(UserError, match=r"libero_goal_0: the expert only puts .* curate\.dataset"):
        show(env, lambda action: None)


# The last two: a marked region of another body, and two things.
@pytest.mark.parametrize("task", ["libero_object_0", "libero_spatial_0", "libero_goal_2", "libero_10_6"])
def test_expert_solves(task: str) -> None:
    """The reward is 1 at the step that solves the task, and nothing before."""
    from pirl_core.envs.libero.expert import show
    from pirl_core.envs.libero.simulator import LiberoEnv

    env = LiberoEnv(task, STATES._replace(episode_steps=300))
    env.reset(Episode(task, 1000, "stored", 0))
    results = []

    def act(action: np.ndarray) -> None:
        results.append(env.step(action))
        if results[-1][1] or results[-1][2]:
            raise EpisodeOver

    with suppress(EpisodeOver):
        show(env, act)
    assert results[-1] == (1.0, True, False)
    assert all(result == (0.0, False, False) for result in results[:-1])
    with pytest.raises(RuntimeError, match="reset first"):
        env.step(np.zeros(7))

"""The MetaWorld adapter: starts fixed by the episode alone, MetaWorld's own physics, shifts, rendering, replay."""

from collections import Counter
from typing import Any, get_args

import mujoco
import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP

from pirl_core.envs.contract import Settings
from pirl_core.envs.drawing.mujoco import EDITED, Detail, Renderer
from pirl_core.envs.metaworld.facts import FACTS, ML45_TEST, TASKS
from pirl_core.envs.metaworld.shifts import BOX_GROWTH
from pirl_core.envs.metaworld.simulator import MetaWorldEnv, settled_state, simulate_settling
from pirl_core.envs.opening import settings_of
from pirl_core.envs.vector.replay import Take, render_episode, replay
from pirl_core.errors import UserError
from pirl_core.params.sections import Env
from pirl_core.types import Episode

STEPS = 100
STATES = Settings("metaworld", STEPS, [], 64, True, True, "cpu")
MIXED = ("drawer-open-v3", "dial-turn-v3", "basketball-v3", "door-lock-v3", "push-v3", "stick-pull-v3")


def physics(env: MetaWorldEnv) -> np.ndarray:
    state = np.empty(mujoco.mj_stateSize(env.model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(env.model, env.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    return state


def start(env: MetaWorldEnv, episode: Episode) -> np.ndarray:
    """Everything that decides how the episode goes on: physics, edited model, goal, observation."""
    env.reset(episode)
    model = [getattr(env.model, name).ravel() for name in EDITED]
    return np.concatenate([physics(env), *model, env._env._target_pos, env.full_observation()])


def act(env: MetaWorldEnv, rng: np.random.Generator, steps: int) -> None:
    for _ in range(steps):
        _, terminated, truncated = env.step(rng.uniform(-1, 1, 4))
        if terminated or truncated:
            return


def run_expert(env: MetaWorldEnv, episode: Episode) -> tuple[bool, list[np.ndarray]]:
    env.reset(episode)
    expert = ENV_POLICY_MAP[env.task]()
    actions: list[np.ndarray] = []
    while True:
        actions.append(np.clip(expert.get_action(env.full_observation()), -1, 1))
        _, terminated, truncated = env.step(actions[-1])
        if terminated or truncated:
            return terminated, actions


def settings(**changes: Any) -> Env:
    values: dict[str, Any] = {
        "benchmark": "metaworld",
        "tasks": ["drawer-open-v3"],
        "shift": "none",
        "episode_steps": STEPS,
        "cameras": ["corner2"],
        "image_size": 64,
        "fast_render": True,
        "object_state": False,
        "keys": {},
        "frame_stack": 1,
        "sim_backend": "cpu",
    }
    return Env(**(values | changes))


def test_task_table() -> None:
    assert set(TASKS) == set(ALL_V3_ENVIRONMENTS)
    assert Counter(task.group for task in TASKS.values()) == {"easy": 28, "medium": 11, "hard": 6, "very_hard": 5}
    assert set(ML45_TEST) < set(TASKS)
    assert len(FACTS.sentences()) == 50
    with pytest.raises(UserError, match="drawer-open-v3"):
        FACTS.task("drawer-opne-v3")


@pytest.mark.parametrize("task", MIXED)
def test_start_is_fixed_by_the_episode_alone(task: str) -> None:
    used, fresh = MetaWorldEnv(task, STATES), MetaWorldEnv(task, STATES)
    rng = np.random.default_rng(0)
    for seed, shift in ((3, "position"), (4, "visual"), (5, "none")):
        used.reset(Episode(task, seed, shift))
        act(used, rng, 30)
    for shift in ("none", "visual", "position"):
        assert np.array_equal(start(used, Episode(task, 7, shift)), start(fresh, Episode(task, 7, shift)))
    assert not np.array_equal(start(used, Episode(task, 7)), start(used, Episode(task, 8)))


@pytest.mark.parametrize("task", MIXED)
def test_settled_snapshot_equals_simulating_the_hand_reset(task: str) -> None:
    env = MetaWorldEnv(task, STATES)
    env.reset(Episode(task, 1))
    act(env, np.random.default_rng(0), 40)
    env._restore()
    assert np.array_equal(simulate_settling(env._env), settled_state(task))


@pytest.mark.parametrize("task", ["drawer-open-v3", "dial-turn-v3", "push-v3", "window-close-v3", "reach-v3"])
def test_plays_like_metaworld_itself(task: str) -> None:
    """MetaWorld's own environment, reset twice with the same start vector, takes the same course."""
    ours = MetaWorldEnv(task, STATES)
    ours.reset(Episode(task, 11))
    theirs: Any = ALL_V3_ENVIRONMENTS[task]()
    theirs._partially_observable = False
    del theirs.__dict__["sawyer_observation_space"]
    theirs._set_task_called = True
    vector = ours._env._last_rand_vec.copy()
    theirs._get_state_rand_vec = lambda: vector.copy()
    theirs.reset()
    np.testing.assert_allclose(ours._env._target_pos, theirs._target_pos, atol=1e-5)
    rng = np.random.default_rng(0)
    for step in range(30):
        action = rng.uniform(-1, 1, 4)
        expected = theirs.step(action)[0]
        ours.step(action)
        # A resting puck amplifies micrometres of the start; a misplaced object would show as centimetres.
        # The second half, the step before, is stale after MetaWorld's own reset.
        np.testing.assert_allclose(ours.full_observation()[:18], expected[:18], atol=5e-3, err_msg=f"step {step}")


def test_first_observation_shows_this_episodes_object() -> None:
    env = MetaWorldEnv("window-open-v3", STATES)
    first = env.reset(Episode("window-open-v3", 0))[4:7]
    env.step(np.zeros(4))
    assert np.abs(env.state()[4:7] - first).max() < 0.01


def test_state_reward_and_ends() -> None:
    task = "drawer-open-v3"
    for object_state in (False, True):
        env = MetaWorldEnv(task, STATES._replace(object_state=object_state))
        state = env.reset(Episode(task, 0))
        assert state.shape == (FACTS.state_dim(object_state),)
        assert state.dtype == np.float32
        np.testing.assert_array_equal(state[:4], env.full_observation()[:4].astype(np.float32))
    short = MetaWorldEnv(task, STATES._replace(episode_steps=3, object_state=False))
    short.reset(Episode(task, 0))
    assert [short.step(np.zeros(4)) for _ in range(3)] == [(0.0, False, False)] * 2 + [(0.0, False, True)]
    with pytest.raises(RuntimeError, match="reset first"):
        short.step(np.zeros(4))


def test_actions_are_clipped() -> None:
    results = []
    for scale in (1.0, 50.0):
        env = MetaWorldEnv("reach-v3", STATES)
        env.reset(Episode("reach-v3", 0))
        for _ in range(5):
            env.step(np.array([1.0, -1.0, 1.0, 1.0]) * scale)
        results.append(physics(env))
    assert np.array_equal(results[0], results[1])


@pytest.mark.parametrize("task", ["drawer-open-v3", "button-press-topdown-v3", "reach-v3", "coffee-button-v3"])
def test_scripted_expert_solves_also_under_position_shift(task: str) -> None:
    env = MetaWorldEnv(task, STATES)
    assert all(run_expert(env, Episode(task, seed, shift))[0] for shift in ("none", "position") for seed in range(2))


def test_visual_shift_changes_pixels_not_physics() -> None:
    env, renderer = MetaWorldEnv("push-v3", STATES), Renderer()
    pictures, states = [], []
    for shift in ("none", "visual", "none"):
        env.reset(Episode("push-v3", 2, shift))
        pictures.append(renderer.frames(env, ["corner2", "corner3"], 64, "fast"))
        act(env, np.random.default_rng(0), 20)
        states.append(physics(env))
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 5
    assert np.array_equal(pictures[0], pictures[2])
    assert np.array_equal(states[0], states[1])


@pytest.mark.parametrize("task", ["drawer-open-v3", "push-v3", "plate-slide-v3", "bin-picking-v3"])
def test_position_shift_lies_outside_the_box_but_near(task: str) -> None:
    env = MetaWorldEnv(task, STATES)
    for seed in range(10):
        env.reset(Episode(task, seed, "position"))
        box, vector = env._env._random_reset_space, env._env._last_rand_vec
        horizontal = np.arange(vector.size) % 3 != 2
        outside = (vector < box.low) | (vector > box.high)
        assert outside[horizontal].any()
        assert not outside[~horizontal].any()
        assert (np.abs(vector - (box.low + box.high) / 2) <= BOX_GROWTH * (box.high - box.low) / 2 + 1e-9).all()


def test_bad_shift_is_a_user_error() -> None:
    with pytest.raises(UserError, match="none, visual or position"):
        MetaWorldEnv("reach-v3", STATES).reset(Episode("reach-v3", 0, "moon"))


def test_frames_are_upright_and_cheaper_ones_resemble_full_ones() -> None:
    env, renderer = MetaWorldEnv("button-press-topdown-v3", STATES), Renderer()
    env.reset(Episode("button-press-topdown-v3", 0))
    fast, film, full = (renderer.frames(env, ["corner2"], 64, mode)[0].astype(int) for mode in get_args(Detail))
    # The grey sky is on top, the wooden table below; the yellow button box is seen in all modes.
    assert np.ptp(fast[2, 40]) < 15
    assert fast[60, 32, 0] - fast[60, 32, 2] > 15
    yellow = [
        (picture[..., 0] > 140) & (picture[..., 2] < 60) & (picture[..., 1] > 90) for picture in (fast, film, full)
    ]
    assert all(mask.sum() > 20 for mask in yellow)
    assert all(np.abs(np.argwhere(mask).mean(0) - np.argwhere(yellow[2]).mean(0)).max() < 3 for mask in yellow[:2])
    # But for shadows a film has all that a full frame has.
    assert np.abs(film - full).mean() < np.abs(fast - full).mean() / 2


def test_replay_retraces_the_episode() -> None:
    env, episode = settings(cameras=[], object_state=True), Episode("reach-v3", 3)
    simulator = MetaWorldEnv(episode.task, STATES)
    success, actions = run_expert(simulator, episode)
    last, solved = list(replay(settings_of(env), episode, np.array(actions)))[-1]
    assert success
    assert solved
    assert isinstance(last, MetaWorldEnv)
    assert np.array_equal(physics(last), physics(simulator))
    whole, part = Take(episode, np.array(actions)), Take(episode, np.array(actions[:7]))
    assert render_episode(settings_of(env), whole, size=32, every=50, fast=True).success
    frames, success = render_episode(settings_of(env), part, size=96, every=3, fast=False)
    assert not success
    assert frames.shape == (4, 96, 96, 3)
    assert frames.dtype == np.uint8
    assert frames.std() > 10


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_builds_steps_and_repeats(task: str) -> None:
    env = MetaWorldEnv(task, STATES)
    pristine = {name: getattr(env.model, name).copy() for name in dir(env.model) if _is_array(env.model, name)}
    first = start(env, Episode(task, 0))
    act(env, np.random.default_rng(0), 20)
    start(env, Episode(task, 1, "visual"))
    changed = [n for n, v in pristine.items() if not np.array_equal(v, getattr(env.model, n), equal_nan=True)]
    assert set(changed) <= set(EDITED)
    assert np.array_equal(start(env, Episode(task, 0)), first)
    assert np.isfinite(first).all()


def _is_array(model: mujoco.MjModel, name: str) -> bool:
    value = getattr(model, name, None)
    return isinstance(value, np.ndarray) and value.dtype.kind in "if"

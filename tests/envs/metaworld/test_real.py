"""The shift ``real``: one other world, told from the simulated one by what it does and by what is seen of it."""

import numpy as np
import pytest

from pirl_core.envs.drawing.mujoco import EDITED
from pirl_core.envs.metaworld import real
from pirl_core.envs.metaworld.simulator import MetaWorldEnv
from pirl_core.types import Episode
from tests.envs.metaworld.test_metaworld import STATES, run_expert

TASK = "faucet-open-v3"


def model_of(env: MetaWorldEnv, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {name: getattr(env.model, name).copy() for name in names}


def test_it_is_one_world_and_leaves_no_trace() -> None:
    """Its looks and physics are the same in every episode; the next episode elsewhere is as if it had not been."""
    env, names = MetaWorldEnv(TASK, STATES), (*EDITED, *real.PHYSICS)
    env.reset(Episode(TASK, 1))
    before = model_of(env, names)
    start = env.full_observation()
    unmoved = [name for name in names if name not in ("body_pos", "site_pos")]
    worlds = []
    for seed in (1, 2):
        env.reset(Episode(TASK, seed, "real"))
        worlds.append(model_of(env, names))
        env.step(np.ones(4))
    for name in unmoved:
        assert np.array_equal(worlds[0][name], worlds[1][name]), name
    changed = {name for name in unmoved if not np.array_equal(worlds[0][name], before[name])}
    assert changed == {"light_diffuse", "mat_rgba", "cam_pos", *real.PHYSICS}
    robot = env.model.body_rootid[env.model.body("right_hand").id]
    ours = env.model.body_rootid[env.model.dof_bodyid] == robot
    assert np.array_equal(worlds[0]["dof_damping"][ours], before["dof_damping"][ours]) and not ours.all()
    env.reset(Episode(TASK, 1))
    assert all(np.array_equal(value, before[name]) for name, value in model_of(env, names).items())
    assert np.array_equal(env.full_observation(), start) and np.array_equal(env.state(), start.astype(np.float32))


def test_what_is_done_and_seen_by_hand() -> None:
    turned = real.done(np.array([1.0, 0.0, -1.0, 0.7]))
    cos, sin = np.cos(real.TURN), np.sin(real.TURN)
    np.testing.assert_allclose(turned, [real.GAIN[0] * cos, real.GAIN[1] * sin, -real.GAIN[2], 0.7])
    env = MetaWorldEnv(TASK, STATES)
    env.reset(Episode(TASK, 3, "real"))
    env.step(np.zeros(4))
    true, read = env.full_observation(), env.state() - env.full_observation()
    for first in (0, 18):  # now, and the step before
        np.testing.assert_allclose(read[first : first + 3], 0, atol=1e-6)
        assert read[first + 3] == pytest.approx((real.GRIPPER - 1) * true[first + 3], abs=1e-6)
        np.testing.assert_allclose(read[first + 4 : first + 7], real.OFFSET, atol=1e-6)
        np.testing.assert_allclose(read[first + 7 : first + 18], 0, atol=1e-6)  # turn, and no second object
    np.testing.assert_allclose(read[36:], real.OFFSET, atol=1e-6)


def test_the_arm_moves_as_it_is_calibrated() -> None:
    """The mocap that the hand follows: 1 cm a step of what is done."""
    env, action = MetaWorldEnv(TASK, STATES), np.array([0.3, 0.5, 0.4, 0.0])
    for shift, done in (("none", action), ("real", real.done(action))):
        env.reset(Episode(TASK, 5, shift))
        before = env.data.mocap_pos[0].copy()
        env.step(action)
        np.testing.assert_allclose(env.data.mocap_pos[0] - before, done[:3] / 100, atol=1e-9)


def test_an_expert_who_sees_where_things_are_succeeds_in_it() -> None:
    env = MetaWorldEnv(TASK, STATES)
    assert all(run_expert(env, Episode(TASK, seed, "real"))[0] for seed in range(3))

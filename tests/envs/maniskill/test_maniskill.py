"""The ManiSkill adapter: starts fixed by the episode alone, in any process; what counts as solved; pictures."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pirl_core.envs.contract import EpisodeOver, Settings, Simulator
from pirl_core.envs.maniskill.facts import BODIES, FACTS, MOST_BODIES, TASKS
from pirl_core.envs.opening import open_simulator
from pirl_core.errors import UserError
from pirl_core.types import Episode

simulated = pytest.mark.skipif(find_spec("mani_skill") is None, reason="needs mani_skill: make setup EXTRAS=maniskill")
STATES = Settings("maniskill", 200, [], 64, True, True, "cpu")
SEED = 3_000_000_007  # above 2^31, as evaluation's


def course(task: str, simulator: Simulator | None = None) -> np.ndarray:
    """States of twenty random steps, (21, S)."""
    simulator = simulator or open_simulator(STATES, Episode(task, SEED))
    simulator.reset(Episode(task, SEED))
    rng = np.random.default_rng(0)
    states = [simulator.state()]
    for _ in range(20):
        simulator.step(rng.uniform(-1, 1, len(FACTS.action)))
        states.append(simulator.state())
    return np.stack(states)


def test_facts_agree() -> None:
    assert BODIES.keys() == TASKS.keys()
    assert max(map(len, BODIES.values())) == MOST_BODIES
    assert {task.group for task in TASKS.values()} == set(FACTS.groups)
    assert len(FACTS.sentences()) == len(TASKS)


@simulated
@pytest.mark.parametrize("task", ["PickCube-v1", "PegInsertionSide-v1"])
def test_an_episode_takes_one_course_in_place_and_in_another_process(task: str, root: Path) -> None:
    used = open_simulator(STATES, Episode(task, 1))
    used.reset(Episode(task, 1))
    for _ in range(10):
        used.step(np.ones(7))
    ours = course(task, used)
    code = (
        "import sys; from tests.envs.maniskill.test_maniskill import course;"
        f"sys.stdout.buffer.write(course('{task}').tobytes()); sys.stdout.flush()"
    )
    theirs = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True).stdout
    assert ours.tobytes() == theirs[-ours.nbytes :]
    used.reset(Episode(task, 2))
    assert not np.array_equal(used.state(), ours[0])
    used.close()


@simulated
def test_states_and_limits() -> None:
    simulator = open_simulator(STATES._replace(episode_steps=2), Episode("PickCube-v1", 5))
    simulator.reset(Episode("PickCube-v1", 5))
    state = dict(zip(FACTS.state, simulator.state(), strict=False))
    cube = simulator.state()[len(FACTS.state) :][:3]
    assert abs(cube[2] - 0.02) < 1e-3  # half a cube above the table
    assert np.abs(cube[:2]).max() <= 0.1 and np.abs([state["goal_x"], state["goal_y"]]).max() <= 0.1
    assert simulator.step(np.zeros(7)) == (0.0, False, False)
    assert simulator.step(np.zeros(7)) == (0.0, False, True)
    with pytest.raises(RuntimeError, match="reset first"):
        simulator.step(np.zeros(7))
    with pytest.raises(UserError, match="shift 'visual'"):
        simulator.reset(Episode("PickCube-v1", 5, "visual"))
    simulator.close()


@simulated
@pytest.mark.parametrize(("axis", "name"), [(0, "tcp_x"), (1, "tcp_y"), (2, "tcp_z")])
def test_an_action_moves_the_hand_along_its_axis(axis: int, name: str) -> None:
    simulator = open_simulator(STATES, Episode("PushCube-v1", 5))
    simulator.reset(Episode("PushCube-v1", 5))
    at = FACTS.state.index("tcp_x")
    before = simulator.state()[at : at + 3]
    for _ in range(5):
        simulator.step(np.eye(7)[axis] * 0.2 * (-1 if name == "tcp_x" else 1))
    moved = np.abs(simulator.state()[at : at + 3] - before)
    assert moved[axis] > 0.02 and np.delete(moved, axis).max() < 0.01
    simulator.close()


@simulated
@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_planner_solves_the_task(task: str) -> None:
    from pirl_core.envs.maniskill.expert import show
    from pirl_core.envs.maniskill.simulator import ManiSkillEnv

    simulator = ManiSkillEnv(task, STATES)
    solved = []
    for seed in range(4):
        simulator.reset(Episode(task, seed))
        actions: list[np.ndarray] = []

        def act(action: np.ndarray, done: list[np.ndarray] = actions) -> None:
            done.append(action)
            assert np.abs(action).max() <= 1
            _, terminated, truncated = simulator.step(action)
            if terminated or truncated:
                solved.append(terminated)
                raise EpisodeOver

        try:
            show(simulator, act)
        except EpisodeOver:
            continue
        solved.append(False)
    assert sum(solved) >= 3
    simulator.close()


@simulated
@pytest.mark.slow
def test_pictures_show_the_goal_to_people_alone() -> None:
    simulator = open_simulator(STATES._replace(cameras=["base_camera"]), Episode("PickCube-v1", 5))
    simulator.reset(Episode("PickCube-v1", 5))
    seen = simulator.images()
    assert seen.shape == (1, 64, 64, 3) and seen.std() > 10
    for_people, for_policy = (simulator.picture("base_camera", 256, fast=fast) for fast in (False, True))

    def green(picture: np.ndarray) -> int:
        red, green, blue = picture.astype(int).transpose(2, 0, 1)
        return int(((green > red + 60) & (green > blue + 60)).sum())

    assert green(for_policy) == 0 < 20 < green(for_people)
    assert np.array_equal(simulator.images(), seen)
    simulator.close()


@simulated
def test_fast_pictures_are_of_coarse_bodies_and_nearly_the_same() -> None:
    from mani_skill.sensors.camera import Camera

    simulator: Any = open_simulator(STATES._replace(cameras=["base_camera"]), Episode("PushCube-v1", 5))
    simulator.reset(Episode("PushCube-v1", 5))
    true = simulator.picture("base_camera", 64, fast=False)
    coarse = simulator.images()[0].astype(int)
    assert 5 * sum(faces(rough) for _, rough in simulator._bodies) < sum(faces(fine) for fine, _ in simulator._bodies)
    for fine, rough in simulator._bodies:
        fine.visibility, rough.visibility = 1.0, 0.0
    camera: Camera = simulator._camera("base_camera", 64, True)
    simulator.env.scene.update_render(update_sensors=False, update_human_render_cameras=False)
    camera.capture()
    seen = camera.get_obs(rgb=True, depth=False, position=False, segmentation=False)["rgb"][0].numpy().astype(int)
    apart = np.abs(seen - coarse).max(-1)
    assert 0 < apart.mean() < 2 and (apart > 30).mean() < 0.01
    assert np.array_equal(simulator.picture("base_camera", 64, fast=False), true)
    simulator.close()


def faces(body: Any) -> int:
    return sum(len(part.triangles) for shape in body.render_shapes for part in shape.parts)

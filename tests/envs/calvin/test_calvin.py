"""CALVIN's simulator: exact starts, rewards, cameras, experts. Skipped without a clone of calvin_env."""

import gc
import hashlib
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from pirl_core.envs import assets
from pirl_core.envs.calvin.facts import FACTS, SCRIPTED
from pirl_core.envs.calvin.sequences import ROBOT, SUBTASK_STEPS, scene_of, sequences
from pirl_core.envs.calvin.subtasks import SUBTASKS
from pirl_core.envs.contract import Settings
from pirl_core.envs.opening import open_simulator
from pirl_core.types import Episode
from tests import ROOT

LACKING = [name for name in ("pybullet", "gym", "hydra", "quaternion") if find_spec(name) is None]
needs_clone = pytest.mark.skipif(
    bool(LACKING or assets.missing("calvin")),
    reason=f"needs {', '.join(LACKING) or 'calvin_env'}: make setup EXTRAS=calvin, pirl_core.envs.assets fetch calvin",
)
SETTINGS = Settings("calvin", 120, ["static", "gripper"], 64, True, True, "cpu")


@pytest.fixture(scope="module")
def simulator() -> Any:
    return open_simulator(SETTINGS, Episode("D/open_drawer", 0))


def played(simulator: Any, episode: Episode, steps: int = 40) -> str:
    """Digest of all states under random actions that reach the table."""
    rng = np.random.default_rng(episode.seed)
    simulator.reset(episode)
    states = [simulator.state()]
    for step in range(steps):
        action = rng.uniform(-1, 1, 7) * (1, 1, 1, 0.3, 0.3, 0.3, 1) - (0, 0, 0.6, 0, 0, 0, 0)
        action[6] = (-1) ** (step // 15)
        _, *over = simulator.step(action)
        states.append(simulator.state())
        if any(over):
            break
    return hashlib.sha256(np.stack(states).tobytes()).hexdigest()


EPISODES = [
    Episode("D/open_drawer", 1, "random"),
    Episode("D/sequence", 2, "none", 7),
    Episode("D/lift_red_block_table", 3, "random"),
]


@needs_clone
def test_an_episode_is_the_same_whatever_was_played_before(simulator: Any) -> None:
    alone = [played(simulator, episode) for episode in EPISODES]
    for index in (2, 1, 0, 0, 2, 1):
        assert played(simulator, EPISODES[index]) == alone[index]
    code = f"from {__name__} import *; s = open_simulator(SETTINGS, EPISODES[0]); print(played(s, EPISODES[2]))"
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert other.stdout.split()[-1] == alone[2]


@needs_clone
def test_a_sequence_begins_as_published(simulator: Any) -> None:
    simulator.reset(Episode("D/sequence", 0, "none", 3))
    sequence = sequences()[3]
    state = simulator.state()
    assert state.shape == (FACTS.object_state,)
    assert np.allclose(state[:15], ROBOT, atol=1e-3)
    assert np.allclose(state[15:21], scene_of(sequence.condition)[:6], atol=1e-3)
    assert np.allclose(
        state[21:].reshape(3, 6)[:, :2], scene_of(sequence.condition)[6:].reshape(3, 6)[:, :2], atol=5e-3
    )
    assert simulator.instruction() == SUBTASKS[sequence.subtasks[0]].sentence


@needs_clone
@pytest.mark.parametrize("scene", ["A", "C"])
def test_a_block_of_another_scene_lies_where_its_subtask_needs_it(scene: str) -> None:
    """These scenes list their blocks in another order than scene D."""
    simulator: Any = open_simulator(SETTINGS, Episode(f"{scene}/open_drawer", 0))
    for index, colour in enumerate(("red", "blue", "pink")):
        for number in range(4):
            simulator.reset(Episode(f"{scene}/lift_{colour}_block_table", 0, "none", number))
            places = {block.name: block.get_state()[:3] for block in simulator.env.scene.movable_objects}
            x, y, z = places[f"block_{colour}"]
            assert y < 0 and abs(z - 0.46) < 0.02
            assert np.allclose(simulator.state()[21 + 6 * index :][:3], (x, y, z), atol=1e-6)
    simulator.close()


@needs_clone
def test_one_that_was_closed_takes_none_along_when_it_is_collected() -> None:
    """pybullet gives a closed world's number to the next one."""
    first = open_simulator(SETTINGS, Episode("A/open_drawer", 0))
    first.close()
    second = open_simulator(SETTINGS, Episode("B/open_drawer", 0))
    expected = played(second, Episode("B/open_drawer", 1), 5)
    del first
    gc.collect()
    assert played(second, Episode("B/open_drawer", 1), 5) == expected
    second.close()


@needs_clone
@pytest.mark.parametrize(("limit", "steps"), [(10_000, SUBTASK_STEPS), (SUBTASK_STEPS, SUBTASK_STEPS), (7, 7)])
def test_a_subtask_alone_and_of_a_sequence_has_the_steps_of_the_protocol_at_most(limit: int, steps: int) -> None:
    simulator = open_simulator(SETTINGS._replace(episode_steps=limit), Episode("D/sequence", 0))
    for task in ("D/open_drawer", "D/sequence"):
        simulator.reset(Episode(task, 0))
        ends = [simulator.step(np.zeros(7)) for _ in range(steps)]
        assert ends == [(0.0, False, False)] * (steps - 1) + [(0.0, False, True)]
        with pytest.raises(RuntimeError, match="reset first"):
            simulator.step(np.zeros(7))


@needs_clone
def test_each_subtask_of_a_sequence_has_the_whole_limit(simulator: Any) -> None:
    """The expert solves the first in a few steps; then nothing happens until the second's are over."""
    from pirl_core.envs.calvin.expert import show

    number = next(i for i, one in enumerate(sequences()) if one.subtasks[0] in SCRIPTED)
    simulator.reset(Episode("D/sequence", 0, "none", number))
    paid: list[float] = []

    class Solved(Exception):  # noqa: N818
        pass

    def act(action: np.ndarray) -> None:
        paid.append(simulator.step(action)[0])
        if paid[-1]:
            raise Solved

    with pytest.raises(Solved):
        show(simulator, act)
    assert len(paid) > 1
    late = [simulator.step(np.zeros(7))[2] for _ in range(SETTINGS.episode_steps)]
    assert late == [False] * (SETTINGS.episode_steps - 1) + [True]


@needs_clone
def test_a_solved_subtask_pays_one_and_asks_for_the_next(simulator: Any) -> None:
    """The expert solves the first two of a sequence, in one episode."""
    from pirl_core.envs.calvin.expert import show

    shown = SCRIPTED
    number = next(i for i, one in enumerate(sequences()) if set(one.subtasks[:2]) <= set(shown))
    simulator.reset(Episode("D/sequence", 0, "none", number))
    rewards: list[float] = []

    class Solved(Exception):  # noqa: N818
        pass

    def act(action: np.ndarray) -> None:
        rewards.append(simulator.step(action)[0])
        if rewards[-1]:
            raise Solved

    told = [simulator.instruction()]
    for _ in range(2):
        with suppress(Solved):
            show(simulator, act)
        told.append(simulator.instruction())
    assert sum(rewards) == 2
    assert told == [SUBTASKS[name].sentence for name in sequences()[number].subtasks[:3]]


@needs_clone
def test_pictures_are_upright_and_show_the_light(simulator: Any) -> None:
    simulator.reset(Episode("D/sequence", 0, "none", 0))
    images = simulator.images()
    assert images.shape == (2, 64, 64, 3) and images.dtype == np.uint8
    assert images[0].std() > 20
    # The floor's light tiles fill the lower left corner, the brown table the middle.
    assert images[0][-8:, :8].mean() > images[0][28:44, 28:44].mean() + 20
    assert simulator.picture("static", 200, False).shape == (200, 200, 3)
    assert simulator.picture("gripper", 64, False).shape == (64, 64, 3)


@needs_clone
def test_a_coarse_arm_changes_little_of_the_picture_and_nothing_else(simulator: Any) -> None:
    true: Any = open_simulator(SETTINGS._replace(fast_render=False), Episode("D/open_drawer", 0))
    episode = Episode("D/open_drawer", 1, "random", 0)
    assert played(simulator, episode) == played(true, episode)
    coarse, fine = (each.picture("static", 64, True).astype(int) for each in (simulator, true))
    apart = np.abs(coarse - fine).max(-1)
    assert 0 < (apart > 30).mean() < 0.1
    true.close()


@needs_clone
@pytest.mark.slow
@pytest.mark.parametrize("scene", ["A", "B", "C", "D"])
def test_every_expert_shows_its_subtask(scene: str) -> None:
    from pirl_core.envs.calvin.expert import show
    from pirl_core.envs.contract import EpisodeOver

    simulator: Any = open_simulator(SETTINGS, Episode(f"{scene}/open_drawer", 0))
    failed = []
    for name in SCRIPTED:
        ends: list[bool] = []

        def act(action: np.ndarray, ends: list[bool] = ends) -> None:
            _, done, late = simulator.step(action)
            ends.append(done)
            if done or late:
                raise EpisodeOver

        simulator.reset(Episode(f"{scene}/{name}", 5, "random"))
        with suppress(EpisodeOver):
            show(simulator, act)
        failed += [] if ends[-1] else [name]
    assert not failed

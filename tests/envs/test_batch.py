"""Slots that are rows of a batch: what the process makes of them, and that a row plays what a slot of its own plays."""

import dataclasses
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from pirl_core.envs import assets
from pirl_core.envs.alone import Alone
from pirl_core.envs.contract import EpisodeOver, Settings, Simulator
from pirl_core.envs.opening import expert_of, open_simulator
from pirl_core.envs.put_on_plate.variations import JUMP_STEP
from pirl_core.envs.vector import batch as batches
from pirl_core.envs.vector.batch import BatchSlots
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.envs.vector.worker import Slots
from pirl_core.errors import UserError
from pirl_core.facts import facts_of
from pirl_core.params.sections import Env
from pirl_core.types import Episode

TASKS = ["reach-v3", "drawer-open-v3"]
METAWORLD = Settings("metaworld", 7, ["corner2"], 32, True, False, "cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(scope="module")
def maniskill() -> None:
    if find_spec("mani_skill") is None:
        pytest.skip("needs mani_skill: make setup EXTRAS=maniskill")


@pytest.fixture(scope="module")
def models(maniskill: None) -> None:
    if assets.missing("maniskill"):
        pytest.skip("needs assets: python -m pirl_core.envs.assets fetch maniskill")


@dataclasses.dataclass
class Stack:
    """A batch made of simulators of one episode each, whose answers are known to be right."""

    settings: Settings
    task: str
    rows: dict[int, Simulator] = dataclasses.field(default_factory=dict)

    def fits(self, episode: Episode) -> bool:
        return episode.task == self.task

    def reset(self, rows: np.ndarray, episodes: list[Episode]) -> None:
        for row, episode in zip(rows, episodes, strict=True):
            self.rows.setdefault(row, open_simulator(self.settings, episode)).reset(episode)

    def step(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        steps = [self.rows[row].step(action) for row, action in zip(rows, actions, strict=True)]
        reward, terminated, truncated = map(np.array, zip(*steps, strict=True))
        return reward, terminated, truncated

    def state(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([self.rows[row].state() for row in rows])

    def instructions(self, rows: np.ndarray) -> list[str]:
        return [self.rows[row].instruction() for row in rows]

    def images(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([self.rows[row].images() for row in rows])

    def close(self) -> None:
        pass


def test_rows_give_what_slots_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks on five slots, which end at different times, within a chunk, and take the other task next."""
    opened = []

    def open_batch(settings: Settings, episode: Episode, num_envs: int) -> Stack:
        assert num_envs == 5
        opened.append(episode.task)
        return Stack(settings, episode.task)

    monkeypatch.setattr(batches, "open_batch", open_batch)
    ours, theirs = BatchSlots(METAWORLD, 5), Slots(METAWORLD)
    rng = np.random.default_rng(0)
    first = [(slot, Episode(TASKS[slot % 2], slot)) for slot in (3, 0, 4, 1)]
    later = [(slot, Episode(TASKS[1 - slot % 2], 10 + slot)) for slot in (1, 2, 3)]
    for turn, starting in enumerate((first, later, first)):
        for one, other in zip(ours.reset(starting), theirs.reset(starting), strict=True):
            assert np.array_equal(one, other) and one.dtype == other.dtype
        live = sorted(theirs._busy)
        while live and (turn > 0 or len(live) == 4):
            actions = rng.uniform(-1, 1, (len(live), 3, 4))
            result, expected = ours.step(live, actions), theirs.step(live, actions)
            for one, other in zip(result, expected, strict=True):
                assert np.array_equal(one, other) and one.dtype == other.dtype
            live = sorted(theirs._busy)
            if turn == 0:
                break
    assert opened == ["drawer-open-v3", "reach-v3"]
    ours.reset(first)
    with pytest.raises(RuntimeError, match=r"slots \[0, 4\] run and are left out"):
        ours.step([1, 3], np.zeros((2, 1, 4)))
    with pytest.raises(RuntimeError, match=r"slots \[2\]: step after the episode's end; reset first"):
        ours.step([0, 1, 2, 3, 4], np.zeros((5, 1, 4)))


@pytest.mark.usefixtures("maniskill")
def test_a_row_of_maniskill_takes_the_course_of_a_slot() -> None:
    from pirl_core.envs.maniskill.batch import ManiSkillBatch

    settings = Settings("maniskill", 15, ["base_camera", "render_camera"], 64, False, True, "cpu")
    row: Any = Alone(ManiSkillBatch("PickCube-v1", settings, 1, "cpu"))
    slot: Any = open_simulator(settings, Episode("PickCube-v1", 0))
    same_course(row, slot, [Episode("PickCube-v1", 3_000_000_007), Episode("PickCube-v1", 2)])
    with pytest.raises(UserError, match="shift 'visual'"):
        row.reset(Episode("PickCube-v1", 2, "visual"))


def same_course(row: Simulator, slot: Simulator, episodes: list[Episode]) -> None:
    rng = np.random.default_rng(0)
    for episode in episodes:
        row.reset(episode)
        slot.reset(episode)
        assert row.instruction() == slot.instruction()
        truncated = False
        while not truncated:
            assert np.array_equal(row.state(), slot.state())
            action = rng.uniform(-1, 1, 7)
            reward, terminated, truncated = slot.step(action)
            assert row.step(action) == (reward, terminated, truncated)
            assert not terminated
        assert np.array_equal(row.images(), slot.images())


@pytest.mark.slow
@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("shift", ["none", "multi_carrot_train", "multi_plate_test", "vision_whole05", "ee_pose"])
def test_a_row_of_put_on_plate_starts_and_looks_as_a_slot(shift: str, plates: tuple[Any, Any]) -> None:
    """The same start, the same picture (all other objects lie out of sight), and what the expert does succeeds."""
    row, slot = plates
    episode = Episode("put_on_plate", 5, shift)
    row.reset(episode)
    slot.reset(episode)
    assert np.allclose(row.state(), slot.state(), atol=1e-6)
    assert row.instruction() == slot.instruction()
    assert np.abs(row.images().astype(int) - slot.images()).max(-1).mean() < 0.5
    actions, rewards = [], []

    def act(action: np.ndarray) -> None:
        actions.append(action)
        reward, terminated, truncated = slot.step(action)
        rewards.append(reward)
        if terminated or truncated:
            raise EpisodeOver

    with pytest.raises(EpisodeOver):
        expert_of("put_on_plate")(slot, act)
    played = [row.step(action) for action in actions]
    assert sum(rewards) == pytest.approx(1.1)
    assert sum(reward for reward, _, _ in played) == pytest.approx(1.1)
    assert np.abs(row.state() - slot.state()).max() < 0.1  # an object may come to rest a little turned


@pytest.mark.slow
@pytest.mark.usefixtures("models")
def test_in_a_row_of_put_on_plate_the_object_jumps_as_in_a_slot(plates: tuple[Any, Any]) -> None:
    episode = Episode("put_on_plate", 6, "position_change_to")
    courses = []
    for simulator in plates:
        simulator.reset(episode)
        courses.append([simulator.state()])
        for _ in range(8):
            simulator.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))
            courses[-1].append(simulator.state())
    object_at = np.array(courses)[:, :, 15:18]
    assert np.allclose(object_at[0], object_at[1], atol=0.005)
    assert np.linalg.norm(np.diff(object_at[0], axis=0), axis=-1).argmax() == JUMP_STEP - 1


@pytest.fixture(scope="module")
def plates(models: None) -> tuple[Any, Any]:
    from pirl_core.envs.put_on_plate.batch import PutOnPlateBatch

    settings = Settings("put_on_plate", 80, ["third_view"], 64, True, True, "cpu")
    return Alone(PutOnPlateBatch(settings, 1, "cpu")), open_simulator(settings, Episode("put_on_plate", 0))


def on_gpu(benchmark: str, tasks: list[str], cameras: list[str]) -> Env:
    return Env.model_validate(
        {
            "benchmark": benchmark,
            "tasks": tasks,
            "keys": {},
            "frame_stack": 1,
            "shift": "none",
            "episode_steps": 30,
            "cameras": cameras,
        }
        | {"image_size": 64, "fast_render": True, "object_state": True, "sim_backend": "gpu"}
    )


@pytest.mark.usefixtures("maniskill")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so() -> None:
    with (
        VectorEnv(on_gpu("maniskill", ["PushCube-v1"], []), 4) as envs,
        pytest.raises(UserError, match=r"env\.sim_backend = gpu: no CUDA device 0 was found; set it to cpu"),
    ):
        envs.reset([0], [Episode("PushCube-v1", 0)])


@pytest.mark.parametrize(("benchmark", "task"), [("libero", "libero_object_0"), ("maniskill", "PegInsertionSide-v1")])
def test_what_a_gpu_cannot_simulate_is_refused(benchmark: str, task: str) -> None:
    with pytest.raises(ValueError, match=f"simulates '{task}' on the CPU alone; set it to cpu"):
        on_gpu(benchmark, [task], [])


@needs_gpu
@pytest.mark.usefixtures("maniskill")
@pytest.mark.parametrize(
    ("benchmark", "task", "camera"),
    [("maniskill", "PickCube-v1", "base_camera"), ("put_on_plate", "put_on_plate", "third_view")],
)
def test_on_a_gpu_an_episode_starts_alike_in_every_row_and_disturbs_no_other(
    benchmark: str, task: str, camera: str
) -> None:
    if benchmark == "put_on_plate" and assets.missing("maniskill"):
        pytest.skip("needs assets: python -m pirl_core.envs.assets fetch maniskill")
    facts = facts_of(on_gpu(benchmark, [task], [camera]).benchmark)
    still = np.zeros((6, 2, len(facts.action)), np.float32)
    with VectorEnv(on_gpu(benchmark, [task], [camera]), 6) as envs:
        begun = envs.reset([4, 1, 5, 0, 3, 2], [Episode(task, seed) for seed in (1, 2, 1, 3, 4, 5)])
        assert np.allclose(begun.state[0], begun.state[2], atol=1e-4)  # a row's place is part of its float32 numbers
        assert np.abs(begun.state[0] - begun.state[1]).max() > 1e-3
        assert begun.images.std() > 10
        before = envs.step(list(range(6)), still)
        again = envs.reset([3, 2, 0], [Episode(task, seed) for seed in (2, 1, 5)])
        assert np.allclose(again.state, begun.state[[1, 0, 5]], atol=1e-4)
        after = envs.step(list(range(6)), still)
        others, joints = [1, 4, 5], slice(0, 7)
        assert np.abs(after.observation.state - before.observation.state)[others, joints].max() < 0.02

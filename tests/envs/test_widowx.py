"""Put-on-plate and SIMPLER in mani_skill: exact starts, limits, pictures, experts."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pirl_core import seeds
from pirl_core.envs import assets
from pirl_core.envs.contract import EpisodeOver, Settings, Simulator
from pirl_core.envs.opening import expert_of, open_simulator
from pirl_core.envs.put_on_plate import assets as pictures
from pirl_core.envs.put_on_plate.facts import CAMERA, LONG_HOLD
from pirl_core.envs.put_on_plate.names import OBJECTS, PLATES, TABLES
from pirl_core.envs.put_on_plate.variations import SINGLE
from pirl_core.envs.simpler.facts import PICKS
from pirl_core.errors import UserError
from pirl_core.facts import facts_of
from pirl_core.types import Episode

VARIABLE = assets.ASSETS["maniskill"].variable
BLIND = {name: Settings(name, 120, [], 64, True, True, "cpu") for name in ("put_on_plate", "simpler")}
CARROT, EGGPLANT = "PutCarrotOnPlateInScene-v1", "PutEggplantInBasketScene-v1"


@pytest.fixture
def simulated() -> None:
    if find_spec("mani_skill") is None:
        pytest.skip("needs mani_skill: make setup EXTRAS=maniskill")
    if assets.missing("maniskill"):
        pytest.skip("needs assets: python -m pirl_core.envs.assets fetch maniskill")
    pictures.models.cache_clear()


def course(benchmark: str, episode: Episode, simulator: Simulator | None = None) -> np.ndarray:
    """States of ten random steps that push things about, (11, S)."""
    simulator = simulator or open_simulator(BLIND[benchmark], episode)
    simulator.reset(episode)
    rng = np.random.default_rng(1)
    states = [simulator.state()]
    for _ in range(10):
        simulator.step(rng.normal([0, 0, -0.015, 0, 0, 0, 0], 0.02))
        states.append(simulator.state())
    return np.stack(states)


EPISODES = {
    "put_on_plate": Episode("put_on_plate", seeds.evaluation_seed(0, "put_on_plate", 0), "multi_carrot_train"),
    "simpler": Episode(CARROT, seeds.evaluation_seed(0, CARROT, 0)),
}


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize("benchmark", EPISODES)
def test_an_episode_takes_one_course_after_every_other_and_in_every_process(benchmark: str, root: Path) -> None:
    episode = EPISODES[benchmark]
    others = [episode._replace(seed=2), episode]
    if benchmark == "put_on_plate":
        others += [Episode(SINGLE, 3), Episode("put_on_plate", 9, "multi_plate_test")]
    used = open_simulator(BLIND[benchmark], episode)
    ours = course(benchmark, episode, used)
    for other in others:
        assert used.fits(other)
        used.reset(other)
        for _ in range(15):
            used.step(np.array([0.0, 0, -0.02, 0, 0, 0, 1]))
        again = course(benchmark, episode, used)
        assert np.array_equal(ours, again)
    assert not np.array_equal(course(benchmark, others[0], used), ours)
    used.close()
    code = (
        "import sys; from tests.envs.test_widowx import EPISODES, course;"
        f"sys.stdout.buffer.write(course('{benchmark}', EPISODES['{benchmark}']).tobytes()); sys.stdout.flush()"
    )
    theirs = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True).stdout
    assert ours.tobytes() == theirs[-ours.nbytes :]


@pytest.mark.usefixtures("simulated")
def test_an_action_moves_the_gripper_by_so_many_metres() -> None:
    simulator = open_simulator(BLIND["simpler"], Episode(CARROT, 5))
    simulator.reset(Episode(CARROT, 5))
    hand = slice(8, 11)
    before = simulator.state()[hand]
    for _ in range(4):
        simulator.step(np.array([0.0, 0.0, 0.01, 0, 0, 0, 1]))
    for _ in range(3):
        simulator.step(np.array([0.0, 0, 0, 0, 0, 0, 1]))
    assert np.allclose(simulator.state()[hand] - before, [0, 0, 0.04], atol=0.006)
    simulator.close()


@pytest.mark.usefixtures("simulated")
def test_simpler_is_mani_skills() -> None:
    """Sentences, limits and starts as mani_skill says; an episode ends at the shorter limit of two."""
    from mani_skill.utils.registration import REGISTERED_ENVS

    from pirl_core.envs.simpler.simulator import SimplerEnv

    for task, pick in PICKS.items():
        assert REGISTERED_ENVS[task].max_episode_steps == pick.steps
        simulator = SimplerEnv(task, BLIND["simpler"]._replace(episode_steps=2))
        scene = simulator.scene
        assert scene.get_language_instruction() == [pick.sentence]
        assert len(scene.xyz_configs) * len(scene.quat_configs) == pick.starts
        simulator.reset(Episode(task, 1))
        still = np.array([0.0, 0, 0, 0, 0, 0, 1])
        assert [simulator.step(still), simulator.step(still)] == [(0.0, False, False), (0.0, False, True)]
        with pytest.raises(RuntimeError, match="reset first"):
            simulator.step(still)
        with pytest.raises(UserError, match="shift 'position'"):
            simulator.reset(Episode(task, 1, "position"))
        simulator.close()


@pytest.mark.usefixtures("simulated")
def test_simplers_starts_come_in_turn() -> None:
    """All 24 once, whatever the seed; drawn ones are none of them, and near one."""
    simulator = open_simulator(BLIND["simpler"], Episode(CARROT, 0))

    def start(seed: int, shift: str, number: int) -> bytes:
        simulator.reset(Episode(CARROT, seed, shift, number))
        return simulator.state().tobytes()

    starts = [start(number, "listed", number) for number in range(24)]
    assert len(set(starts)) == 24
    assert start(7, "listed", 24) == starts[0]
    drawn = [start(seed, "none", 3) for seed in range(6)]
    assert len({*drawn, *starts}) == 30
    places = slice(15, 18), slice(22, 25)
    rows, near = (np.frombuffer(b"".join(group), np.float32).reshape(len(group), -1) for group in (starts, drawn))
    for row in near:
        apart = np.max([np.abs(rows[:, where][:, :2] - row[where][:2]).max(1) for where in places], 0)
        assert 1e-4 < apart.min() < max(PICKS[CARROT].spread) + 0.005  # what it slides when it settles
    simulator.close()


@pytest.mark.usefixtures("simulated")
def test_the_assets_are_those_that_the_names_say() -> None:
    for kind, words in (("carrot", OBJECTS), ("plate", PLATES)):
        entries = pictures.models(kind)
        assert [entry["name"] for entry in entries.values()] == list(words)
        assert [int(key[:3]) for key in entries] == list(range(1, len(words) + 1))
    assert len(pictures.models("table")) == TABLES


def test_what_is_missing_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=r"lacks carrot/more_carrot.*pirl_core.envs.assets fetch maniskill") as caught:
        pictures.folder("carrot")
    assert "\n" not in str(caught.value)
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="no readable picture"):
        pictures.picture(tmp_path / "x.png")


@pytest.mark.slow
@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize(
    ("benchmark", "task", "totals"),
    [
        ("put_on_plate", "put_on_plate", (0, 0.1, 1.1)),
        ("put_on_plate", LONG_HOLD, (0, 0.1, 0.2, 1.2)),
        *(("simpler", task, (0, 1)) for task in PICKS),
    ],
)
def test_the_expert_solves_the_task(benchmark: str, task: str, totals: tuple[float, ...]) -> None:
    """Of drawn starts, nearly all; put-on-plate pays 0.1 for the grasp, by name 0.1 for a long one, 1 for the plate."""
    show = expert_of(benchmark)
    simulator = open_simulator(BLIND[benchmark], Episode(task, 0))
    solved = 0
    for seed in range(6):
        simulator.reset(Episode(task, seed))
        rewards: list[float] = []

        def act(action: np.ndarray, paid: list[float] = rewards) -> None:
            reward, *ends = simulator.step(action)
            paid.append(reward)
            if any(ends):
                raise EpisodeOver

        try:
            show(simulator, act)
        except EpisodeOver:
            assert min(abs(sum(rewards) - total) for total in totals) < 1e-9
            solved += sum(rewards) >= 1
    assert solved >= 5
    simulator.close()


@pytest.mark.slow
@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize(
    ("benchmark", "episode"),
    [("put_on_plate", Episode(SINGLE, 1, "vision_image")), ("simpler", Episode(EGGPLANT, 1))],
)
def test_pictures_show_the_robot_over_the_photograph(benchmark: str, episode: Episode) -> None:
    """Fast and full pictures show the same; where nothing moves the photograph stays; the same picture again."""
    settings = BLIND[benchmark]._replace(cameras=list(facts_of(benchmark).cameras))
    simulator = open_simulator(settings, episode)
    simulator.reset(episode)
    seen = simulator.images()
    assert seen.shape == (1, 64, 64, 3) and seen.dtype == np.uint8 and seen.std() > 10
    full = simulator.picture(CAMERA, 64, fast=False)
    assert np.abs(full.astype(int) - seen[0]).mean() < 15
    for _ in range(5):
        simulator.step(np.array([0.0, 0, 0.02, 0, 0, 0, 1]))
    moved = simulator.images()
    same = (moved == seen).all(-1).mean()
    assert 0.4 < same < 0.99
    assert np.array_equal(simulator.images(), moved)
    simulator.reset(episode)
    assert np.array_equal(simulator.images(), seen)
    simulator.close()

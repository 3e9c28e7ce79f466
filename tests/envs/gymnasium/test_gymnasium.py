"""The benchmark gymnasium: any registered id, the environment's own numbers, ends and pictures; own packages."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from pirl_core import seeds
from pirl_core.envs.contract import Settings
from pirl_core.envs.opening import open_simulator
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.errors import UserError
from pirl_core.facts import facts_in, facts_of
from pirl_core.params.sections import Env
from pirl_core.types import Episode

OWN = '''
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict


class Reach(gymnasium.Env):
    """A dot on a line is brought to 1; below -1 it is lost."""

    metadata = {"render_modes": [], "render_fps": 10}

    def __init__(self, render_mode=None):
        self.observation_space = Dict({
            "front": Box(0, 255, (8, 12, 3), np.uint8), "place": Box(-9, 9, (1,)), "goal": Box(-9, 9, (2,)),
        })
        self.action_space = Box(-2.0, 2.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(-0.2, 0.2))
        return self.seen(), {}

    def step(self, action):
        self.x += 0.3 * float(action[0])
        return self.seen(), self.x, abs(self.x) > 1, False, {"is_success": self.x > 1}

    def seen(self):
        picture = np.full((8, 12, 3), 7, np.uint8)
        picture[:, 6:] = int(100 + 50 * self.x)
        return {"front": picture, "place": np.array([self.x], np.float32), "goal": np.array([1, self.x], np.float32)}


gymnasium.register("Reach-v0", Reach)
gymnasium.register("Undrawn-v0", lambda: Reach())
gymnasium.register("Counted-v0", gymnasium.make("CartPole-v1").spec.entry_point)
'''
KEYS: dict[str, Any] = {"front": "front", "state": "place", "object": ["goal"], "success": "is_success"}
TASK = "own_worlds:Reach-v0"
METAWORLD = {"benchmark": "metaworld", "tasks": ["reach-v3"], "keys": {}, "frame_stack": 2}


def world(**changes: Any) -> Env:
    values: dict[str, Any] = {
        "benchmark": "gymnasium", "tasks": ["Hopper-v5"], "keys": {}, "frame_stack": 1, "shift": "none",
        "episode_steps": 40,
        "cameras": [], "image_size": 32, "fast_render": True, "object_state": True, "sim_backend": "cpu",
    }  # fmt: skip
    return Env(**(values | changes))


def told(call: Any, *arguments: Any, **named: Any) -> str:
    """The message of the UserError; one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_worlds.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("task", "state", "action", "bound"),
    [
        ("Hopper-v5", 11, 3, 1.0),
        ("HalfCheetah-v5", 17, 6, 1.0),
        ("Pendulum-v1", 3, 1, 2.0),
        ("Humanoid-v5", 348, 17, 0.4),
    ],
)
def test_the_facts_are_the_spaces(task: str, state: int, action: int, bound: float) -> None:
    facts = facts_in(world(tasks=[task], episode_steps=100))
    assert (len(facts.state), facts.object_state, len(facts.action)) == (state, state, action)
    assert facts.action_range == pytest.approx(bound) and facts.score == "return"


def test_it_is_the_environment_itself() -> None:
    """Observations, rewards and ends of a bare loop, bit for bit, whatever the slot has played before."""
    episode, rng = Episode("Hopper-v5", seeds.train_seed(0, "Hopper-v5", 3)), np.random.default_rng(0)
    simulator = open_simulator(Settings("gymnasium", 40, [], 32, True, True, "cpu"), episode)
    bare = gymnasium.make("Hopper-v5", max_episode_steps=40)
    actions = rng.uniform(-2, 2, (40, 3)).astype(np.float32)
    for _ in range(2):
        state, _ = bare.reset(seed=seeds.simulator_seed(episode.seed))
        simulator.reset(episode)
        for action in actions:
            assert np.array_equal(simulator.state(), state.astype(np.float32))
            state, reward, terminated, truncated, _ = bare.step(action.clip(-1, 1))
            assert simulator.step(action) == (reward, terminated, truncated and not terminated)
            if terminated or truncated:
                break
        assert np.array_equal(simulator.state(), state.astype(np.float32))
        with pytest.raises(RuntimeError, match="step after the episode's end"):
            simulator.step(actions[0])


@pytest.mark.parametrize("frames", [1, 3])
def test_stacked_states_are_those_of_the_last_steps(frames: int, own: Path) -> None:
    """The present one first; before the first step there is nothing but the start. Chunks do not thin them out."""
    env = world(tasks=[TASK], keys={"state": "place", "object": ["goal"]}, episode_steps=9, frame_stack=frames)
    facts = facts_in(env)
    assert facts.state == ("place", "place_1", "place_2")[:frames] and facts.object_state == 3 * frames
    episode = Episode(TASK, seeds.train_seed(0, TASK, 0))
    bare = gymnasium.make("Reach-v0")
    seen = [bare.reset(seed=seeds.simulator_seed(episode.seed))[0]] * frames

    def expected() -> np.ndarray:
        last = seen[: -frames - 1 : -1]
        return np.concatenate([each[key] for key in ("place", "goal") for each in last])

    chunks = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 1, 4, 1)).astype(np.float32)
    with VectorEnv(env, 1, 1) as envs:
        for _ in range(2):
            del seen[frames:]
            bare.reset(seed=seeds.simulator_seed(episode.seed))
            assert np.array_equal(envs.reset([0], [episode]).state[0], expected())
            for chunk in chunks:
                seen += [bare.step(action)[0] for action in chunk[0]]
                assert np.array_equal(envs.step([0], chunk).observation.state[0], expected())
    with pytest.raises(ValueError, match="states of a Gymnasium environment alone are stacked; set 1"):
        Env(**(env.model_dump() | METAWORLD))


def test_the_number_of_workers_changes_nothing() -> None:
    env, rng = world(), np.random.default_rng(1)
    episodes = [Episode("Hopper-v5", seeds.train_seed(0, "Hopper-v5", number)) for number in range(5)]
    chunks = rng.uniform(-1, 1, (3, 5, 4, 3)).astype(np.float32)
    seen = []
    for workers in (1, 2):
        with VectorEnv(env, 5, workers) as envs:
            first = envs.reset(range(5), episodes)
            results = [envs.step(range(5), chunk) for chunk in chunks]
            seen.append(
                [first.state, *[part for result in results for part in (result.observation.state, *result[1:])]]
            )
    for one, two in zip(*seen, strict=True):
        assert np.array_equal(one, two)


def test_a_package_of_ones_own_with_pictures_and_success(own: Path) -> None:
    env = world(tasks=[TASK], keys=KEYS, cameras=["front"], object_state=False, episode_steps=6)
    facts = facts_in(env)
    assert (facts.state, facts.object_state, facts.action_range, facts.rate) == (("place",), 3, 2.0, 10.0)
    # One that knows of no render mode.
    assert facts_in(world(tasks=["own_worlds:Undrawn-v0"], keys=KEYS)).state == facts.state
    assert env.score == "success" and facts.task(TASK).sentences == ("Reach",)
    episode = Episode(TASK, seeds.train_seed(0, TASK, 0))
    with VectorEnv(env, 3, 1) as envs:
        seen = envs.reset([0, 1, 2], [episode] * 3)
        assert seen.images.shape == (3, 1, 32, 32, 3) and seen.state.shape == (3, 1)
        left, right = seen.images[0, 0, :, :8], seen.images[0, 0, :, -8:]
        assert (left == 7).all() and (right == int(100 + 50 * float(seen.state[0, 0]))).all()
        moves = np.array([[2.0], [-2.0], [0.0]], np.float32)
        result = envs.step([0, 1, 2], np.repeat(moves[:, None], 6, 1))
    # Solved, lost (which is no success, hence cut), and out of time.
    assert result.terminated.tolist() == [True, False, False]
    assert result.truncated.tolist() == [False, True, True] and result.steps.tolist()[2] == 6


def test_its_sentence_is_the_user_s(own: Path) -> None:
    """In the facts, which find demonstrations by it, and in what the policy is told."""
    env = world(tasks=[TASK], keys={**KEYS, "sentence": "move right"}, cameras=["front"], episode_steps=6)
    assert facts_in(env).task(TASK).sentences == ("move right",) and facts_in(env).sentences() == ["move right"]
    with VectorEnv(env, 1, 1) as envs:
        assert envs.reset([0], [Episode(TASK, 0)]).instructions == ["move right"]
    with pytest.raises(ValueError, match="unknown Gymnasium camera 'sentence'"):
        world(tasks=[TASK], keys={**KEYS, "sentence": "move right"}, cameras=["sentence"])


def test_what_cannot_be_is_told_in_one_line(own: Path) -> None:
    with pytest.raises(ValueError, match="unknown Gymnasium task 'Hoper-v5'; did you mean 'Hopper-v5'"):
        world(tasks=["Hoper-v5"])
    assert "No module named 'no_worlds'; install it, or put its folder on" in told(world, tasks=["no_worlds:Reach-v0"])
    with pytest.raises(ValueError, match="2000 exceeds the 1000 that the protocol gives"):
        world(episode_steps=2000)
    with pytest.raises(ValueError, match="unknown Gymnasium camera 'fron'"):
        world(tasks=[TASK], keys=KEYS, cameras=["fron"])
    with pytest.raises(ValueError, match="are names in a Gymnasium environment; set"):
        world(benchmark="metaworld", tasks=["reach-v3"], keys=KEYS)
    for changes, words in (
        ({"tasks": ["own_worlds:Counted-v0"]}, "a flow policy moves numbers"),
        ({"tasks": ["Hopper-v5", "Walker2d-v5"]}, "Walker2d-v5 has 17 state and 6 action numbers, Hopper-v5 11 and 3"),
        ({"tasks": ["Hopper-v5"], "keys": {"state": "x"}}, "the observation of Hopper-v5 is no Dict"),
        ({"tasks": [TASK], "keys": {"state": "plac"}}, "has no key 'plac'; it has front, goal, place"),
        ({"tasks": [TASK], "keys": {"state": "front"}}, "no vector of numbers"),
        ({"tasks": [TASK], "keys": {"front": "goal"}}, "no picture"),
    ):
        assert words in told(facts_in, world(**changes))
    episode = Episode(TASK, 0)
    simulator = open_simulator(Settings("gymnasium", 9, [], 32, True, True, "cpu", [TASK], {"success": "won"}), episode)
    simulator.reset(episode)
    assert "info of own_worlds:Reach-v0 has no 'won'; it has is_success" in told(simulator.step, np.zeros(1))
    assert "render mode" in told(open_simulator, Settings("gymnasium", 9, ["render"], 32, True, True, "cpu"), episode)


def test_the_list_of_tasks_is_not_all_that_there_is() -> None:
    tasks = facts_of("gymnasium").tasks
    assert "Pendulum-v1" in tasks and "Pendulum-v1" not in list(tasks) and "Pendulum-v9" not in tasks
    assert set(tasks) <= set(gymnasium.registry)


def test_who_shows_a_task_is_the_policy_that_the_library_trained() -> None:
    """As arrays it acts as stable-baselines3's own does, and its demonstrations are told by return."""
    from pirl_core.envs.gymnasium.expert import mean_action
    from pirl_core.envs.gymnasium.training import Numbers, taken

    worlds = VecNormalize(DummyVecEnv([lambda: Numbers(gymnasium.make("Pendulum-v1"), {}, "Pendulum-v1")]))
    model = PPO("MlpPolicy", worlds, n_steps=64, seed=0, device="cpu").learn(128)
    trained = taken(model, worlds)
    for state in np.random.default_rng(0).normal(0, 3, (20, 3)).astype(np.float32):
        expected, _ = model.predict(worlds.normalize_obs(state), deterministic=True)
        np.testing.assert_allclose(mean_action(trained, state).clip(-2, 2), expected, atol=1e-5)
    worlds.close()


@pytest.mark.slow
def test_training_stops_where_it_is_good_enough_or_says_that_it_is_not() -> None:
    from pirl_core.envs.gymnasium.training import train

    said: list[str] = []
    first, record = train("Hopper-v5", {}, 100, 0, 20.0, 10**6, said.append)
    again, _ = train("Hopper-v5", {}, 100, 0, 20.0, 10**6, said.append)
    assert record["return"] >= 20 and record["steps"] % 2048 == 0 and len(said) >= 2
    assert all(np.array_equal(value, again[name]) for name, value in first.items())
    assert "ask for less, or give more steps" in told(train, "Hopper-v5", {}, 100, 0, 1e6, 1, said.append)

"""A policy that shows a task: PPO of stable-baselines3, trained until it is as good as asked for.

Axes: S state numbers, A action numbers.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from pirl_core import seeds
from pirl_core.envs.gymnasium.expert import Trained, mean_action
from pirl_core.envs.gymnasium.spaces import make, parts, reader
from pirl_core.errors import UserError
from pirl_core.facts import Keys

ENVS, ROLLOUT = 4, 512
"""Side by side, and steps of each before an update. The other numbers are the library's own, which are PPO's for
MuJoCo: two layers of 64, 10 epochs of 64, learning rate 3e-4."""
CHECK = 10
"""Updates between two looks at how good it is."""
EPISODES = 10


class Numbers(gymnasium.ObservationWrapper):
    """The observation as the numbers that a policy with object state reads."""

    def __init__(self, env: Any, keys: Keys, task: str) -> None:
        super().__init__(env)
        state, objects = parts(env.observation_space, keys, task)
        self._read = reader(env.observation_space, [*state, *objects])
        count = len(self._read(env.reset(seed=0)[0]))
        self.observation_space = Box(-np.inf, np.inf, (count,), np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        return self._read(observation)


def train(
    task: str, keys: Keys, limit: int, seed: int, wanted: float, most: int, tell: Callable[[str], None]
) -> tuple[Trained, dict[str, Any]]:
    """Trains on episodes of ``limit`` steps until the mean return without noise is ``wanted``; gives the policy, and
    what is to be recorded of it. seed: that of the demonstrations.

    Raises UserError where ``most`` steps do not get it there.
    """

    def opened() -> Any:
        return Numbers(make(task, limit, False), keys, task)

    worlds = VecNormalize(DummyVecEnv([opened] * ENVS), gamma=0.99)
    own = seeds.integer("expert", seed, task)
    model = PPO("MlpPolicy", worlds, n_steps=ROLLOUT, seed=own, device="cpu")
    judge, best = opened(), -np.inf
    try:
        while model.num_timesteps < most:
            model.learn(CHECK * ENVS * ROLLOUT, reset_num_timesteps=model.num_timesteps == 0)
            trained = taken(model, worlds)
            found = float(np.mean([played(judge, trained, seed, task, number) for number in range(EPISODES)]))
            best = max(best, found)
            tell(f"{task}: after {model.num_timesteps} steps the policy that will show it returns {found:.1f}")
            if found >= wanted:
                record = {"task": task, "algorithm": "PPO of stable-baselines3", "seed": own}
                return trained, {**record, "steps": model.num_timesteps, "return": found, "episodes": EPISODES}
    finally:
        worlds.close()
        judge.close()
    raise UserError(
        f"curate.expert_return = {wanted:g}: within curate.expert_steps = {most} {task} returned {best:.1f} at best; "
        "ask for less, or give more steps"
    )


def taken(model: Any, worlds: Any) -> Trained:
    """The deterministic policy as arrays, the observation's statistics among them."""
    net = model.policy
    layers = [layer for layer in net.mlp_extractor.policy_net if isinstance(layer, torch.nn.Linear)]
    arrays = {"mean": worlds.obs_rms.mean, "std": np.sqrt(worlds.obs_rms.var + worlds.epsilon), "clip": worlds.clip_obs}
    for number, layer in enumerate([*layers, net.action_net]):
        arrays[f"weight{number}"] = layer.weight.detach().numpy().copy()
        arrays[f"bias{number}"] = layer.bias.detach().numpy().copy()
    return {name: np.array(value, np.float32) for name, value in arrays.items()}


def played(env: Any, trained: Trained, seed: int, task: str, number: int) -> float:
    """The return of the episode of the first attempt at demonstration ``number``."""
    state, _ = env.reset(seed=seeds.simulator_seed(seeds.demo_seed(seed, task, number, 0)))
    total, over = 0.0, False
    while not over:
        action = mean_action(trained, state).clip(env.action_space.low, env.action_space.high)
        state, reward, terminated, truncated, _ = env.step(action)
        total, over = total + float(reward), terminated or truncated
    return total

"""SAC Flow as its preset has it, from scratch on a task of MuJoCo, as the stages sft and rl would train it."""

import io
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path

import gymnasium
import numpy as np

from benchmarks.setting import supervision
from pirl_core.data.lerobot import Frames
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.facts import facts_in
from pirl_core.params.file import Run, resolve
from pirl_core.params.preset import load_preset
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.rl.sac.model import SacFlow
from pirl_core.rl.sac.replay import Replay
from pirl_core.rl.sac.train import train_sac
from pirl_core.sft.build import build_policy
from pirl_core.sft.train import train_sft
from pirl_core.training.session import Session, open_session

SHOWN = 10_000
"""Steps of random actions, which SFT is shown."""
Validate = Callable[[FlowPolicy, VectorEnv, int], float]
"""(policy, environments, iterations done) → what is logged as the validation return."""


def setting(task: str) -> Run:
    run = resolve(load_preset("sac_flow"), "hopper", "sac_flow")
    return run._replace(env=run.env.model_copy(update={"tasks": [task]}))


def random_frames(task: str, seed: int) -> Frames:
    """``SHOWN`` steps of uniform actions."""
    env = gymnasium.make(task)
    env.action_space.seed(seed)
    states, actions, episode, frame = [], [], [], []
    number = -1
    over = True
    for _ in range(SHOWN):
        if over:
            number, count = number + 1, 0
            state, _ = env.reset(seed=seed + number)
        states.append(state)
        actions.append(env.action_space.sample())
        episode.append(number)
        frame.append(count)
        state, _, terminated, truncated, _ = env.step(actions[-1])
        over, count = terminated or truncated, count + 1
    env.close()
    images = np.zeros((SHOWN, 0, 0, 0, 3), np.uint8)
    rows = np.array(episode), np.array(frame), np.zeros(SHOWN, np.int64)
    return Frames(images, np.array(states, np.float32), np.array(actions, np.float32), *rows, [task])


def trained(run: Run, seed: int, folder: Path, validate: Validate) -> tuple[SacFlow, Replay]:
    """After both stages, the first where ``sft.steps`` is not 0; their logs lie in ``folder``."""
    frames = random_frames(run.env.tasks[0], seed)
    policy = build_policy(run.env, run.policy, frames, facts_in(run.env).sentences(), seed).policy
    with redirect_stdout(io.StringIO()), VectorEnv(run.env, run.rl.num_envs) as envs:
        if run.sft.steps:
            with opened("sft", run.sft.steps, folder) as session:
                train_sft(policy, frames, run.env.cameras, run.sft, seed, session)
        with opened("rl", run.rl.iterations, folder) as session:

            def judged(iteration: int) -> dict[str, float]:
                return {"validation/return": validate(policy, envs, iteration)}

            tasks, shift = run.env.tasks, run.env.shift
            return train_sac(policy, envs, tasks, shift, run.rl, seed, session, judged, lambda: None, "return")


@contextmanager
def opened(stage: str, total: int, folder: Path) -> Iterator[Session]:
    home = folder / stage
    home.mkdir()
    with (
        chdir(home),
        open_session(stage, "x", "", {}, supervision(), total, Path("policy"), Path("log")) as session,
    ):
        yield session

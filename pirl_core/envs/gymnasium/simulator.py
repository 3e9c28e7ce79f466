"""One registered environment: episode in, the environment's own reward out.

Axes: C cameras, S state numbers, A action numbers.
"""

import math
from collections import deque
from typing import Any

import numpy as np
from PIL import Image

from pirl_core import seeds
from pirl_core.envs.contract import Settings, stack_frames
from pirl_core.envs.gymnasium.facts import FACTS, RENDER, sentence_of
from pirl_core.envs.gymnasium.spaces import make, numbers_of, parts, reader
from pirl_core.errors import UserError
from pirl_core.facts import SUCCESS
from pirl_core.types import Episode


class GymnasiumEnv:
    """Plays one episode of a task after another.

    With ``keys.success`` an episode ends, solved, where that key of ``info`` first says so; where the environment ends
    it otherwise it is cut. Without, terminated and truncated are the environment's.
    """

    def __init__(self, task: str, settings: Settings) -> None:
        self.task = task
        self._settings = settings
        self._success = settings.keys.get(SUCCESS)
        self._env: Any = make(task, settings.episode_steps, RENDER in settings.cameras)
        if settings.tasks and task not in settings.tasks:
            numbers_of([settings.tasks[0], task], settings.keys)
        space = self._env.observation_space
        state, objects = parts(space, settings.keys, task)
        read = [*state, *(objects if settings.object_state else ())]
        self._read = reader(space, read)
        # Where states are stacked, what is read of each: all of state comes before what object state adds.
        self._parts = [reader(space, part) for part in (state, read[len(state) :]) if part]
        self._seen: deque[list[np.ndarray]] = deque(maxlen=settings.frame_stack)
        self._read_all = reader(space, [*state, *objects])
        self._low, self._high = self._env.action_space.low, self._env.action_space.high
        self._dtype = self._env.action_space.dtype
        self._sentence = sentence_of(settings.keys) or FACTS.tasks[task].sentences[0]
        self.observation: Any = None
        self._over = True

    def fits(self, episode: Episode) -> bool:
        return episode.task == self.task

    def reset(self, episode: Episode) -> np.ndarray:
        """Start the episode; returns the state (S,) float32. Raises UserError for an unknown shift."""
        FACTS.check_shift(episode.shift)
        self.observation, _ = self._env.reset(seed=seeds.simulator_seed(episode.seed))
        self._over = False
        for _ in range(self._settings.frame_stack):
            self._remember()
        return self.state()

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """Apply one action (A,), clipped to the action space."""
        if self._over:
            raise RuntimeError(f"{self.task}: step after the episode's end; reset first")
        self.observation, reward, terminated, truncated, info = self._env.step(self.bounded(action))
        self._remember()
        if not math.isfinite(reward):
            raise RuntimeError(f"{self.task}: the reward is {reward}")
        if self._success is not None:
            if self._success not in info:
                raise UserError(f"env.keys.success: info of {self.task} has no '{self._success}'; it has {_some(info)}")
            solved = bool(info[self._success])
            terminated, truncated = solved, not solved and bool(terminated or truncated)
        self._over = bool(terminated or truncated)
        return float(reward), bool(terminated), bool(truncated and not terminated)

    def bounded(self, action: np.ndarray) -> np.ndarray:
        """Within the action space, of its dtype."""
        # np.clip takes longer than a tenth of HalfCheetah's step.
        return np.minimum(np.maximum(action, self._low), self._high).astype(self._dtype, copy=False)

    def state(self) -> np.ndarray:
        """What the policy reads now, (S,) float32: of ``frame_stack`` steps, the present one first."""
        if self._settings.frame_stack == 1:
            return self._read(self.observation)
        return np.concatenate([numbers for part in zip(*self._seen, strict=True) for numbers in part])

    def _remember(self) -> None:
        if self._settings.frame_stack > 1:
            self._seen.appendleft([np.array(read(self.observation)) for read in self._parts])

    def whole_state(self) -> np.ndarray:
        """All numbers of the present step, those that object state adds among them."""
        return self._read_all(self.observation)

    def instruction(self) -> str:
        return self._sentence

    def images(self) -> np.ndarray:
        """(C, image_size, image_size, 3) uint8."""
        size = self._settings.image_size
        return stack_frames([self.picture(camera, size, True) for camera in self._settings.cameras], size)

    def picture(self, camera: str, size: int, fast: bool) -> np.ndarray:
        """(size, size, 3) uint8, of another shape stretched to it."""
        frame = self._env.render() if camera == RENDER else self.observation[self._settings.keys[camera]]
        if frame.shape == (size, size, 3):
            return np.array(frame, np.uint8)
        return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR))

    def close(self) -> None:
        self._env.close()


def _some(info: dict[str, Any]) -> str:
    return ", ".join(list(info)[:8]) or "nothing"

"""The worker process: runs several episode slots, one message per call. ``vector.VectorEnv`` starts it.

Messages on the pipe: ``(command, payload)`` down, ``("ok", payload)`` or ``("error", text)`` up. The process ends when
the pipe closes, so it cannot outlive its parent. It must not import torch: that costs seconds and 300 MB each.
"""

import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from pirl_core.envs import opengl
from pirl_core.errors import UserError
from pirl_core.types import Episode

IDLE_SIMULATORS = 8
"""Simulators kept for later slots beyond those in use; each holds about 25 MB."""


class Settings(NamedTuple):
    """What a worker needs of ``params.Env``."""

    episode_steps: int
    cameras: list[str]
    image_size: int
    fast_render: bool
    object_state: bool


class Outcome(NamedTuple):
    """Rows follow the slots of the request; fields as in ``types.ChunkResult``."""

    images: np.ndarray
    state: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    steps: np.ndarray


class Slots:
    """Episode slots of one process and the simulators they borrow."""

    def __init__(self, settings: Settings):
        if settings.cameras:
            opengl.chosen()
        from pirl_core.envs.render import Renderer

        self._settings = settings
        self._renderer = Renderer()
        self._busy: dict[int, Any] = {}
        self._idle: list[Any] = []

    def reset(self, requests: list[tuple[int, Episode]]) -> tuple[np.ndarray, np.ndarray]:
        """Start an episode in each slot; returns images (n, C, H, W, 3) and state (n, S)."""
        for slot, _ in requests:
            if slot in self._busy:
                self._idle.append(self._busy.pop(slot))
        for slot, episode in requests:
            self._busy[slot] = self._simulator(episode.task)
        while len(self._idle) > IDLE_SIMULATORS:
            self._idle.pop(0).close()
        state = np.stack([self._busy[slot].reset(episode) for slot, episode in requests])
        return np.stack([self._images(self._busy[slot]) for slot, _ in requests]), state

    def step(self, slots: list[int], actions: np.ndarray) -> Outcome:
        """Run each slot through its chunk of actions (n, R, A), at most to its episode's end."""
        outcomes = []
        for slot, chunk in zip(slots, actions, strict=True):
            if slot not in self._busy:
                raise RuntimeError(f"slot {slot}: step after the episode's end; reset first")
            outcomes.append(self._run_chunk(self._busy[slot], chunk))
            if outcomes[-1].terminated or outcomes[-1].truncated:
                # The slot's next episode may be another worker's.
                self._idle.append(self._busy.pop(slot))
        return Outcome(*(np.stack(column) for column in zip(*outcomes, strict=True)))

    def _run_chunk(self, simulator: Any, chunk: np.ndarray) -> Outcome:
        total, steps, terminated, truncated = 0.0, 0, False, False
        for action in chunk:
            reward, terminated, truncated = simulator.step(action)
            total += reward
            steps += 1
            if terminated or truncated:
                break
        size = self._settings.image_size
        # Nothing reads the picture after success: the value there is 0.
        images = (
            np.zeros((len(self._settings.cameras), size, size, 3), np.uint8) if terminated else self._images(simulator)
        )
        return Outcome(
            images,
            simulator.state(),
            np.asarray(total, np.float32),
            np.asarray(terminated, np.bool_),
            np.asarray(truncated, np.bool_),
            np.asarray(steps, np.int64),
        )

    def _simulator(self, task: str) -> Any:
        from pirl_core.envs.metaworld import MetaWorldEnv

        for index, simulator in enumerate(self._idle):
            if simulator.task == task:
                return self._idle.pop(index)
        return MetaWorldEnv(task, self._settings.episode_steps, self._settings.object_state)

    def _images(self, simulator: Any) -> np.ndarray:
        settings = self._settings
        return self._renderer.frames(simulator, settings.cameras, settings.image_size, settings.fast_render)


def serve(pipe: Connection) -> None:
    """Answer requests until the pipe closes."""
    slots: Slots | None = None
    while True:
        try:
            command, payload = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            if command == "start":
                slots = Slots(payload)
                answer: Any = None
            else:
                assert slots is not None
                answer = slots.reset(payload) if command == "reset" else slots.step(*payload)
            reply = ("ok", answer)
        except UserError as error:
            reply = ("user_error", str(error))
        except Exception:
            reply = ("error", traceback.format_exc())
        try:
            pipe.send(reply)
        except (BrokenPipeError, ConnectionResetError):
            return


def main() -> None:
    # Ctrl-C reaches the whole process group; the parent closes the pipe when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(int(sys.argv[1])) as pipe:
        serve(pipe)
    # OpenGL drivers print errors when Python tears them down in arbitrary order.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)

"""The worker process: runs several episode slots, one message per call. ``vector.VectorEnv`` starts it.

Messages on the pipe: ``(command, payload)`` down, an answer up (``processes``). The process ends when the pipe closes,
so it cannot outlive its parent. It must not import torch: that costs seconds and 300 MB each.
"""

from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from pirl_core.envs.contract import Outcome, Settings, Simulator
from pirl_core.envs.opening import open_simulator
from pirl_core.envs.vector.batch import BatchSlots
from pirl_core.envs.vector.processes import answered, be_child
from pirl_core.envs.vector.replay import record_episode, render_episode
from pirl_core.envs.vector.world import world_of
from pirl_core.types import Episode

IDLE_SIMULATORS = 8
"""Simulators kept for later slots beyond those in use; each of MetaWorld's holds about 25 MB."""


class Slots:
    """Episode slots of one process and the simulators they borrow."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._busy: dict[int, Simulator] = {}
        self._idle: list[Simulator] = []

    def reset(self, requests: list[tuple[int, Episode]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Start an episode in each slot; returns images (n, C, H, W, 3), state (n, S) and instructions (n,)."""
        for slot, _ in requests:
            if slot in self._busy:
                self._idle.append(self._busy.pop(slot))
        for slot, episode in requests:
            self._busy[slot] = self._simulator(episode)
        while len(self._idle) > IDLE_SIMULATORS:
            self._idle.pop(0).close()
        begun = [self._busy[slot] for slot, _ in requests]
        for simulator, (_, episode) in zip(begun, requests, strict=True):
            simulator.reset(episode)
        return (
            np.stack([simulator.images() for simulator in begun]),
            np.stack([simulator.state() for simulator in begun]),
            np.array([simulator.instruction() for simulator in begun]),
        )

    def step(self, slots: list[int], actions: np.ndarray) -> Outcome:
        """Run each slot through its chunk of actions (n, R, A), at most to its episode's end."""
        count, size = len(slots), self._settings.image_size
        # Nothing reads the picture after success: the value there is 0.
        images = np.zeros((count, len(self._settings.cameras), size, size, 3), np.uint8)
        states, told, totals, ends, steps = [], [], [], np.zeros((count, 2), np.bool_), np.zeros(count, np.int64)
        for row, (slot, chunk) in enumerate(zip(slots, actions, strict=True)):
            if slot not in self._busy:
                raise RuntimeError(f"slot {slot}: step after the episode's end; reset first")
            simulator = self._busy[slot]
            total, ends[row], steps[row] = _run_chunk(simulator, chunk)
            if self._settings.cameras and not ends[row, 0]:
                images[row] = simulator.images()
            states.append(simulator.state())
            told.append(simulator.instruction())
            totals.append(total)
            if ends[row].any():
                # The slot's next episode may be another worker's.
                self._idle.append(self._busy.pop(slot))
        reward = np.array(totals, np.float32)
        return Outcome(images, np.stack(states), np.array(told), reward, ends[:, 0], ends[:, 1], steps)

    def catch_up(self, played: list[tuple[int, Episode, list[np.ndarray]]]) -> None:
        """Bring slots to where a lost worker had them: each episode's start, then its chunks (R, A) so far."""
        self.reset([(slot, episode) for slot, episode, _ in played])
        for slot, _, chunks in played:
            for chunk in chunks:
                self.step([slot], chunk[None])

    def clear(self) -> None:
        """Give up all episodes and the memory of their simulators."""
        for simulator in [*self._busy.values(), *self._idle]:
            simulator.close()
        self._busy, self._idle = {}, []

    def _simulator(self, episode: Episode) -> Simulator:
        for index, simulator in enumerate(self._idle):
            if simulator.fits(episode):
                return self._idle.pop(index)
        return open_simulator(self._settings, episode)


def _run_chunk(simulator: Simulator, chunk: np.ndarray) -> tuple[float, tuple[bool, bool], int]:
    """Rewards of the steps, whether the episode terminated and whether it was truncated, and the count of steps."""
    total, steps, terminated, truncated = 0.0, 0, False, False
    asked = simulator.instruction()
    for action in chunk:
        reward, terminated, truncated = simulator.step(action)
        total += reward
        steps += 1
        # The rest of the chunk was planned for another sentence, where the next subtask has begun.
        if terminated or truncated or simulator.instruction() != asked:
            break
    return total, (terminated, truncated), steps


def serve(pipe: Connection) -> None:
    """Answer requests until the pipe closes."""
    slots: Slots | BatchSlots | None = None
    settings: Settings | None = None

    def answer(command: str, payload: Any) -> Any:
        nonlocal slots, settings
        if command == "start":
            settings, num_envs = payload
            slots = BatchSlots(settings, num_envs) if settings.sim_backend == "gpu" else Slots(settings)
            return None
        if command == "world":
            return world_of(*payload)
        assert slots is not None and settings is not None
        if command == "film":
            slots.clear()
            take, size, every = payload
            return render_episode(settings, take, size, every, fast=False)
        if command == "record":
            slots.clear()
            return record_episode(settings, *payload)
        if command == "catch_up":
            assert isinstance(slots, Slots)
            return slots.catch_up(payload)
        return slots.reset(payload) if command == "reset" else slots.step(*payload)

    while True:
        try:
            request = pipe.recv()
            pipe.send(answered(partial(answer, *request)))
        except (EOFError, OSError):
            return


def main() -> None:
    be_child(serve)

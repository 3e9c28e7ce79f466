"""What a benchmark is to the rest: its folder, here or in a package of one's own, has two modules of no weight.

``facts`` has ``FACTS``, and ``open`` three functions: ``simulator(settings, episode)`` gives a ``Simulator`` that
fits the episode and still has to be reset; ``expert()`` gives the one who shows its tasks, an ``Expert``; and
``batch(settings, episode, num_envs)``, for a benchmark with tasks ``on_gpu`` alone, a ``Batch``. Where the one who
shows the tasks is trained first, ``trained(settings, wanted, tell)`` gives arrays by name, for ``expert(arrays)``, and
a record of each task.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from pirl_core.types import Episode


class Settings(NamedTuple):
    """What a simulator needs of ``params.Env``. tasks: those of training; () where it does not matter."""

    benchmark: str
    episode_steps: int
    cameras: list[str]
    image_size: int
    fast_render: bool
    object_state: bool
    sim_backend: Literal["cpu", "gpu"]
    tasks: Sequence[str] = ()
    keys: Mapping[str, str | list[str]] = {}
    frame_stack: int = 1


class Wanted(NamedTuple):
    """Of an expert that is trained. seed: of the demonstrations; level: the mean return at which it is good enough;
    steps: in how many of the simulator it has to be."""

    seed: int
    level: float
    steps: int


class Outcome(NamedTuple):
    """Of a chunk in n slots; fields as in ``types.ChunkResult``."""

    images: np.ndarray
    state: np.ndarray
    instruction: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    steps: np.ndarray


class Simulator(Protocol):
    """One episode at a time. Axes: C cameras, S state numbers, A action numbers."""

    def fits(self, episode: Episode) -> bool:
        """Whether it can play the episode; else another one has to be opened."""
        ...

    def reset(self, episode: Episode) -> object:
        """Start the episode; equal episodes start in equal states, whatever was played before. Raises UserError for an
        unknown shift."""
        ...

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """Apply one action (A,); returns reward, terminated (solved) and truncated (out of time)."""
        ...

    def state(self) -> np.ndarray:
        """What the policy reads now, (S,) float32."""
        ...

    def instruction(self) -> str:
        """The sentence the policy is given now."""
        ...

    def images(self) -> np.ndarray:
        """What the settings' cameras see now, (C, image_size, image_size, 3) uint8, upright."""
        ...

    def picture(self, camera: str, size: int, fast: bool) -> np.ndarray:
        """(size, size, 3) uint8 for a video: as people like to see it, unless ``fast``, as the policy does."""
        ...

    def close(self) -> None:
        """Give up the simulator's memory."""
        ...


class Batch(Protocol):
    """Many episodes at once, one in each row; a call is about n rows. Axes: C cameras, S state numbers, A action
    numbers.
    """

    def fits(self, episode: Episode) -> bool:
        """Whether a row can play it; else another batch has to be opened."""
        ...

    def reset(self, rows: np.ndarray, episodes: list[Episode]) -> None:
        """Start the episodes; other rows stay as they are. Raises UserError for an unknown shift."""
        ...

    def step(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Apply actions (n, A); returns reward, terminated and truncated (n,). What other rows do is undefined."""
        ...

    def state(self, rows: np.ndarray) -> np.ndarray:
        """(n, S) float32."""
        ...

    def instructions(self, rows: np.ndarray) -> list[str]:
        """n sentences."""
        ...

    def images(self, rows: np.ndarray) -> np.ndarray:
        """What the settings' cameras see, (n, C, image_size, image_size, 3) uint8, upright."""
        ...

    def close(self) -> None:
        """Give up the memory."""
        ...


def stack_frames(frames: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Pictures (size, size, 3) uint8 of C cameras, or of none → (C, size, size, 3)."""
    return np.array(frames, np.uint8).reshape(len(frames), size, size, 3)


Act = Callable[[np.ndarray], None]
"""Executes and records one action (A,); raises EpisodeOver after the episode's last."""
Expert = Callable[[Any, Act], None]
"""Shows the task in a simulator that has just been reset; returns where it gives up."""


class EpisodeOver(Exception):  # noqa: N818  (no error)
    """The episode has ended, by success or by time."""

"""The benchmarks: facts for everyone, simulators for the worker processes. Adding one is a line in each function."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np

from pirl_core.envs.drawing import opengl
from pirl_core.facts import Facts
from pirl_core.types import Episode

if TYPE_CHECKING:
    from pirl_core.params.sections import Env

Name = Literal["metaworld", "maniskill", "put_on_plate", "simpler", "libero", "calvin"]


class Settings(NamedTuple):
    """What a simulator needs of ``params.Env``."""

    benchmark: Name
    episode_steps: int
    cameras: list[str]
    image_size: int
    fast_render: bool
    object_state: bool
    sim_backend: Literal["cpu", "gpu"]


def settings_of(env: "Env") -> Settings:
    return Settings(
        env.benchmark,
        env.episode_steps,
        list(env.cameras),
        env.image_size,
        env.fast_render,
        env.object_state,
        env.sim_backend,
    )


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
        """(size, size, 3) uint8 for a video; full quality unless ``fast``."""
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


def facts_of(name: Name) -> Facts:
    from pirl_core.envs.calvin import facts as calvin
    from pirl_core.envs.libero import facts as libero_tasks
    from pirl_core.envs.maniskill import facts as maniskill_tasks
    from pirl_core.envs.metaworld import facts as metaworld_tasks
    from pirl_core.envs.put_on_plate import facts as put_on_plate
    from pirl_core.envs.simpler import facts as simpler_tasks

    return {
        "metaworld": metaworld_tasks.FACTS,
        "maniskill": maniskill_tasks.FACTS,
        "put_on_plate": put_on_plate.FACTS,
        "simpler": simpler_tasks.FACTS,
        "libero": libero_tasks.FACTS,
        "calvin": calvin.FACTS,
    }[name]


def open_simulator(settings: Settings, episode: Episode) -> Simulator:
    """A simulator that ``fits`` the episode; it still has to be reset. Imports the benchmark's package.

    Raises UserError when the task is unknown, or package or assets are missing.
    """
    facts_of(settings.benchmark).task(episode.task)
    if settings.sim_backend == "gpu":
        from pirl_core.envs.vector.batch import Alone

        return Alone(open_batch(settings, episode, 1))
    if settings.benchmark in ("maniskill", "put_on_plate", "simpler"):
        from pirl_core.envs.drawing import vulkan  # noqa: F401  (raises where mani_skill is missing)
    if settings.benchmark == "maniskill":
        from pirl_core.envs.maniskill.simulator import ManiSkillEnv

        return ManiSkillEnv(episode.task, settings)
    if settings.benchmark == "put_on_plate":
        from pirl_core.envs.put_on_plate.simulator import PutOnPlateEnv

        return PutOnPlateEnv(settings)
    if settings.benchmark == "simpler":
        from pirl_core.envs.simpler.simulator import SimplerEnv

        return SimplerEnv(episode.task, settings)
    if settings.benchmark == "calvin":
        from pirl_core.envs.calvin.simulator import CalvinEnv

        return CalvinEnv(episode.task.split("/")[0], settings)
    if settings.cameras:
        opengl.chosen()  # before mujoco is imported, which reads the variable and raises
    if settings.benchmark == "libero":
        from pirl_core.envs.libero.simulator import LiberoEnv

        return LiberoEnv(episode.task, settings)
    from pirl_core.envs.metaworld.simulator import MetaWorldEnv

    return MetaWorldEnv(episode.task, settings)


def open_batch(settings: Settings, episode: Episode, num_envs: int) -> Batch:
    """A batch with ``num_envs`` rows that ``fits`` the episode, on the GPU of this rank.

    Raises UserError where there is no such GPU, or package or assets are missing.
    """
    from pirl_core.envs.drawing import vulkan

    device = vulkan.gpu()
    if settings.benchmark == "put_on_plate":
        from pirl_core.envs.put_on_plate.batch import PutOnPlateBatch

        return PutOnPlateBatch(settings, num_envs, device)
    from pirl_core.envs.maniskill.batch import ManiSkillBatch

    return ManiSkillBatch(episode.task, settings, num_envs, device)

"""A small world of two or three decisions in the place of the simulators."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from pirl_core import seeds
from pirl_core.envs.vector.replay import Film, Take
from pirl_core.params import sections as params
from pirl_core.types import ChunkResult, DemoEpisode, Episode, Observation


def film(_: object, take: Take, *__: Any, **___: Any) -> Film:
    """Stands in for ``render_episode``, with the outcome that ``Walk`` gives."""
    return Film(np.zeros((2, 8, 8, 3), np.uint8), bool(take.episode.seed % 2))


class Walk:
    """Stands in for the simulators: episodes of two decisions (success) or three (time limit).

    Start and reward depend on the episode; a validation episode succeeds only the first time it is played, so the
    first policy is the best one. ``played`` lists every start, ``widest`` is the largest batch.
    """

    made: ClassVar[list["Walk"]] = []

    def __init__(self, env: params.Env, num_envs: int, workers: int | None = None, groups: int = 1) -> None:
        self.num_envs, self.groups = num_envs, groups
        self.state_dim = 39
        self.played: list[Episode] = []
        self.widest = 0
        self.slots: dict[int, tuple[Episode, int, bool]] = {}
        Walk.made.append(self)

    def __enter__(self) -> "Walk":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _observe(self, slots: list[int]) -> Observation:
        rows = []
        for slot in slots:
            (_, seed, shift, _), decision, _ = self.slots[slot]
            rows.append(np.random.default_rng([seed, len(shift)]).standard_normal(self.state_dim) + decision)
        images = np.zeros((len(slots), 0, 32, 32, 3), np.uint8)
        return Observation(images, np.array(rows, np.float32), ["reach"] * len(slots))

    def reset(self, slots: list[int], episodes: list[Episode]) -> Observation:
        for slot, episode in zip(slots, episodes, strict=True):
            validation = seeds.use_of(episode.seed) == "validation"
            self.slots[slot] = episode, 0, episode not in self.played if validation else bool(episode.seed % 2)
            self.played.append(episode)
        return self._observe(slots)

    def step(self, slots: list[int], actions: np.ndarray) -> ChunkResult:
        self.widest = max(self.widest, len(slots))
        for slot in slots:
            episode, before, success = self.slots[slot]
            self.slots[slot] = episode, before + 1, success
        decision = np.array([self.slots[slot][1] for slot in slots])
        wins = np.array([self.slots[slot][2] for slot in slots])
        terminated, truncated = wins & (decision == 2), ~wins & (decision == 3)
        reward = terminated - np.square(actions - 0.5).mean((1, 2))
        steps = np.full(len(slots), actions.shape[1])
        return ChunkResult(self._observe(slots), reward.astype(np.float32), terminated, truncated, steps)

    def film(self, takes: list[Take], *_: int) -> Iterator[tuple[int, Film]]:
        return enumerate(film(None, take) for take in takes)

    def record(self, takes: list[Take]) -> Iterator[tuple[int, list[DemoEpisode]]]:
        for number, (episode, actions) in enumerate(takes):
            count = len(actions)
            # As it was played: two decisions are a success, three are none.
            done = (np.arange(count) == count - 1) & (count < 6)
            state, rewards = np.zeros((count, self.state_dim), np.float32), np.zeros(count, np.float32)
            images = np.zeros((count, 0, 32, 32, 3), np.uint8)
            yield number, [DemoEpisode(episode.task, "reach", episode.seed, 0, images, state, actions, rewards, done)]

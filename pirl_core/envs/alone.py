"""One row of a batch in the place of a simulator."""

import numpy as np

from pirl_core.envs.contract import Batch
from pirl_core.types import Episode


class Alone:
    """A batch of one row as a ``contract.Simulator``, to film an episode where it was simulated."""

    def __init__(self, batch: Batch):
        self._batch = batch
        self._row = np.zeros(1, np.int64)

    def fits(self, episode: Episode) -> bool:
        return self._batch.fits(episode)

    def reset(self, episode: Episode) -> None:
        self._batch.reset(self._row, [episode])

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        reward, terminated, truncated = self._batch.step(self._row, action[None])
        return float(reward[0]), bool(terminated[0]), bool(truncated[0])

    def state(self) -> np.ndarray:
        state: np.ndarray = self._batch.state(self._row)[0]
        return state

    def instruction(self) -> str:
        return self._batch.instructions(self._row)[0]

    def images(self) -> np.ndarray:
        images: np.ndarray = self._batch.images(self._row)[0]
        return images

    def picture(self, camera: str, size: int, fast: bool) -> np.ndarray:
        """What the settings' first camera sees; a batch has the cameras that it was built with and no others."""
        frame: np.ndarray = self.images()[0]
        return frame

    def close(self) -> None:
        self._batch.close()

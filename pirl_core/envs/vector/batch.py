"""Episode slots that are simulated together: rows of batches, one step of the simulator for all.

Axes: n slots of a call, C cameras, H W pixels, S state numbers, R executed actions of a chunk, A action numbers.
"""

import numpy as np

from pirl_core.envs.contract import Batch, Outcome, Settings
from pirl_core.envs.opening import open_batch
from pirl_core.facts import facts_of
from pirl_core.types import Episode


class BatchSlots:
    """``worker.Slots`` for a GPU: slot k is row k of a batch, and each kind of scene has a batch of its own.

    A batch moves as one, so a call to ``step`` names every slot whose episode runs.
    """

    def __init__(self, settings: Settings, num_envs: int):
        self._settings = settings
        self._num_envs = num_envs
        self._batches: list[Batch] = []
        self._running: dict[int, Batch] = {}

    def reset(self, requests: list[tuple[int, Episode]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Start an episode in each slot; returns images (n, C, H, W, 3), state (n, S) and instructions (n,)."""
        episodes = dict(requests)
        slots = np.array(list(episodes))
        self._running |= {slot: self._fitting(episode) for slot, episode in requests}
        answers: list[tuple[np.ndarray, ...]] = []
        for batch, where in self._shares(slots):
            rows = slots[where]
            batch.reset(rows, [episodes[row] for row in rows])
            answers.append((where, batch.images(rows), batch.state(rows), np.array(batch.instructions(rows))))
        images, state, told = _in_order(answers)
        return images, state, told

    def step(self, slots: list[int], actions: np.ndarray) -> Outcome:
        """Run each slot through its chunk of actions (n, R, A), at most to its episode's end."""
        left_out = sorted(self._running.keys() - set(slots))
        over = sorted(set(slots) - self._running.keys())
        if over:
            raise RuntimeError(f"slots {over}: step after the episode's end; reset first")
        if left_out:
            raise RuntimeError(f"slots {left_out} run and are left out; a batch moves as one")
        rows = np.array(slots)
        parts: list[tuple[np.ndarray, ...]] = [
            (where, *self._run_chunk(batch, rows[where], actions[where])) for batch, where in self._shares(rows)
        ]
        outcome = Outcome(*_in_order(parts))
        for slot in rows[outcome.terminated | outcome.truncated]:
            del self._running[slot]
        return outcome

    def clear(self) -> None:
        """Give up all episodes and the memory of the batches."""
        for batch in self._batches:
            batch.close()
        self._batches, self._running = [], {}

    def _run_chunk(self, batch: Batch, rows: np.ndarray, chunk: np.ndarray) -> Outcome:
        count, size = len(rows), self._settings.image_size
        images = np.zeros((count, len(self._settings.cameras), size, size, 3), np.uint8)
        state = np.zeros((count, facts_of(self._settings.benchmark).state_dim(self._settings.object_state)), np.float32)
        total, steps = np.zeros(count), np.zeros(count, np.int64)
        terminated, truncated = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        live = np.arange(count)
        for actions in chunk.swapaxes(0, 1):
            reward, solved, late = batch.step(rows[live], actions[live])
            total[live] += reward
            steps[live] += 1
            terminated[live], truncated[live] = solved, late
            # The simulator takes the rows that ended on with the others, so what they came to is read now. Nothing
            # reads the picture after success.
            ended, cut = live[solved | late], live[late]
            if len(ended):
                state[ended] = batch.state(rows[ended])
            if len(cut):
                images[cut] = batch.images(rows[cut])
            live = live[~(solved | late)]
            if not len(live):
                break
        else:
            images[live], state[live] = batch.images(rows[live]), batch.state(rows[live])
        told = np.array(batch.instructions(rows))
        return Outcome(images, state, told, total.astype(np.float32), terminated, truncated, steps)

    def _shares(self, slots: np.ndarray) -> list[tuple[Batch, np.ndarray]]:
        """Each batch with the positions in ``slots`` that are its rows."""
        homes = [self._running[slot] for slot in slots]
        shares = [(batch, np.array([home is batch for home in homes]).nonzero()[0]) for batch in self._batches]
        return [(batch, where) for batch, where in shares if len(where)]

    def _fitting(self, episode: Episode) -> Batch:
        for batch in self._batches:
            if batch.fits(episode):
                return batch
        self._batches.append(open_batch(self._settings, episode, self._num_envs))
        return self._batches[-1]


def _in_order(parts: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    """Columns of all parts, ordered by the first one, which is left out."""
    where, *columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(where)
    return [column[order] for column in columns]

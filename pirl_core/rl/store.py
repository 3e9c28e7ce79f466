"""The contexts of one rollout, within a memory budget: on the compute device, in host memory, or not kept at all.

Axes: N decisions of this rank, B rows of a batch. In order of arrival the contexts fill the device's budget, then the
host's; of the rest the observation alone is kept (uint8 images, state, instruction) and encoded again for each batch
that needs it. So where a row lies follows from the parameters, and what is computed from it does not depend on that,
but for rounding: a row encoded again is encoded beside other rows.

Without a GPU both places are the same memory; the budgets hold all the same, one after the other. With one, host rows
are pinned, and those of the next batch cross on a stream of their own while the present batch is computed on. Pinned
blocks are rounded up to a power of two by torch, so the host needs up to twice its budget.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pirl_core.policy.context import Context, Inputs
from pirl_core.rl.rollout import concatenate, take
from pirl_core.types import Observation

GIB = 2**30


class Fill(NamedTuple):
    """row_bytes: of one decision's context, the largest. device, host, recomputed: how many decisions lie there."""

    row_bytes: int
    device: int
    host: int
    recomputed: int


class ContextStore:
    """Contexts by row; ``encode`` makes what a batch of observations that were not kept is given as.

    That is the context as a rule. Where the VLM itself learns no context outlives an update: budgets of 0 and an
    ``encode`` that gives the network's inputs leave the encoding, with gradient, to whoever takes the batch.
    """

    def __init__(
        self,
        encode: Callable[[Observation], Context | Inputs],
        device: torch.device,
        device_gib: float,
        host_gib: float,
    ) -> None:
        self._encode = encode
        self._device = device
        self._free = {"device": device_gib * GIB, "host": host_gib * GIB}
        self._counts = {"device": 0, "host": 0, "recomputed": 0}
        self._rows: list[Context | Observation] = []
        self._row_bytes = 0
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def add(self, observation: Observation, context: Context) -> None:
        """The next B rows: their observation, and the context that it was encoded to."""
        size = sum(part[0].nbytes for part in context)
        self._row_bytes = max(self._row_bytes, size)
        start, count = 0, len(context.state)
        for place in ("device", "host"):
            stop = start + min(count - start, int(self._free[place] // size))
            self._free[place] -= (stop - start) * size
            self._counts[place] += stop - start
            if stop > start:
                # A slice would keep the memory of all rows alive.
                part = context if stop - start == count else Context(*(x[start:stop].clone() for x in context))
                kept = Context(*map(_pinned, part)) if place == "host" and self._side else part
                self._rows += _unbound(kept)
            start = stop
        self._counts["recomputed"] += count - start
        self._rows += [take(observation, np.array([row])) for row in range(start, count)]

    def sort(self, order: Sequence[int]) -> None:
        """From now on row i is the one that came as number ``order[i]``."""
        self._rows = [self._rows[index] for index in order]

    @property
    def fill(self) -> Fill:
        return Fill(self._row_bytes, **self._counts)

    def batches(self, chosen: Iterable[np.ndarray]) -> Iterator[Context | Inputs]:
        """The rows of each batch (B,) on the device. Contexts of unequal length are padded to the longest."""
        pending: list[Context | Observation] | None = None
        for rows in chosen:
            following = self._fetch(rows)
            if pending is not None:
                yield self._join(pending)
            pending = following
        if pending is not None:
            yield self._join(pending)

    def _fetch(self, rows: np.ndarray) -> list[Context | Observation]:
        """The rows, with contexts on the device or on their way there."""
        found = [self._rows[row] for row in rows]
        if self._side is None:
            return found
        # What the last batch but one left free may be written to only when it has been read.
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            return [
                Context(*(part.to(self._device, non_blocking=True) for part in row))
                if isinstance(row, Context)
                else row
                for row in found
            ]

    def _join(self, found: list[Context | Observation]) -> Context | Inputs:
        if self._side is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._side)
        dropped = [row for row in found if isinstance(row, Observation)]
        if not dropped:
            return _stacked([row for row in found if isinstance(row, Context)])
        with torch.no_grad():
            again = self._encode(concatenate(dropped))
        if len(dropped) == len(found):
            return again
        assert isinstance(again, Context)
        fresh = iter(_unbound(again))
        return _stacked([row if isinstance(row, Context) else next(fresh) for row in found])


def _unbound(context: Context) -> list[Context]:
    return [Context(*row) for row in zip(*(part.unbind() for part in context), strict=True)]


def _stacked(rows: Sequence[Context]) -> Context:
    return Context(*(stack_padded(parts) for parts in zip(*rows, strict=True)))


def stack_padded(rows: Sequence[Tensor]) -> Tensor:
    """(…) each → (B, …); every axis is as long as the longest, filled up with zeros or False at its end."""
    shapes = {row.shape for row in rows}
    if len(shapes) == 1:
        return torch.stack(list(rows))
    shape = [max(sizes) for sizes in zip(*shapes, strict=True)]
    result = rows[0].new_zeros(len(rows), *shape)
    for target, row in zip(result, rows, strict=True):
        target[tuple(slice(size) for size in row.shape)] = row
    return result


def _pinned(part: Tensor) -> Tensor:
    return torch.empty(part.shape, dtype=part.dtype, pin_memory=True).copy_(part)

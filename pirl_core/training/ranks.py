"""The processes of one stage: which one this is, and the few things that they tell each other.

Without a launcher there is one rank, and every function here returns what it was given.
"""

import os
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from torch.distributed import FileStore  # type: ignore[attr-defined]

from pirl_core.errors import UserError
from pirl_core.training import rendezvous

T = TypeVar("T")


class Ranks(NamedTuple):
    """rank: of this process, in [0, size). The main one, rank 0, writes files and prints."""

    rank: int
    size: int

    @property
    def main(self) -> bool:
        return self.rank == 0


def join() -> Ranks:
    """This process among its peers; the first call connects them (NCCL with GPUs, else gloo)."""
    meeting: dict[str, Any] = {}
    if (file := rendezvous.store()) and not torch.distributed.is_initialized():
        size = int(os.environ["WORLD_SIZE"])
        meeting = {"store": FileStore(str(file), size), "rank": int(os.environ["RANK"]), "world_size": size}
    state = PartialState(cpu=not torch.cuda.is_available(), **meeting)
    return Ranks(state.process_index, state.num_processes)


def require_share(key: str, count: int) -> None:
    """Raises UserError where ``count`` of something, the parameter ``key``, leaves a rank without any."""
    size = join().size
    if count < size:
        raise UserError(f"{key} = {count}: fewer than the {size} processes that share them; set PIRL_PROCESSES lower")


def gathered(items: list[T]) -> list[T]:
    """The lists of all ranks, joined in rank order, on every rank."""
    if PartialState().num_processes == 1:
        return items
    joined: list[T] = gather_object(items)
    return joined


def agreed(value: T) -> T:
    """Rank 0's value, on every rank."""
    if PartialState().num_processes == 1:
        return value
    box: list[Any] = [value]
    broadcast_object_list(box, from_process=0)
    answer: T = box[0]
    return answer


def summed(tensor: Tensor) -> Tensor:
    """Sum over the ranks."""
    if PartialState().num_processes > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def largest(tensor: Tensor) -> Tensor:
    """Maximum over the ranks, element by element."""
    if PartialState().num_processes > 1:
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return tensor


def wait_for_all() -> None:
    PartialState().wait_for_everyone()


def leave() -> None:
    """After success: threads of the connections, left running, may abort a process that ends."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

"""Write weights in a published layout: safetensors shards with their index, and the settings beside them."""

import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pirl_core.checkpoints.read import INDEX, SINGLE
from pirl_core.errors import NO_ROOM, UserError
from pirl_core.files import replace_folder, write_json, write_tensors

SHARD_BYTES = 5_000_000_000
# Readers of the field refuse safetensors that do not say which framework wrote them.
METADATA = {"format": "pt"}
# Files whose number depends on what was exported: shards, and steps of LeRobot's processors.
NUMBERED = ("model-*-of-*.safetensors", "policy_*processor_step_*.safetensors")
DTYPES = {"keep": None, "float32": torch.float32, "bfloat16": torch.bfloat16}


class Layout(NamedTuple):
    """A published layout, seen from ours.

    names: our state_dict key to the layout's, None where the layout has no place for it.
    copies: the layout's key to our key, for tensors that it stores once more (a head tied to the token embedding).
    unused: the layout's key to the shape of a parameter that its readers insist on and the model never uses: zeros.
    documents: path inside the folder to JSON content; ``config.json`` is one of them.
    tensors: path inside the folder to what else it holds as safetensors, in the dtype that it has.
    """

    names: Callable[[str], str | None]
    copies: Mapping[str, str]
    unused: Mapping[str, tuple[int, ...]]
    documents: Mapping[str, Any]
    tensors: Mapping[str, dict[str, Tensor]] = MappingProxyType({})


def export(
    state: Mapping[str, Tensor], layout: Layout, folder: Path, dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:  # fmt: skip
    """Write ``folder`` anew, whole or not at all. dtype: of all floating-point tensors; None keeps each one's own.

    Raises UserError for a parameter that the layout has no place for, for a folder that holds anything else than an
    earlier export, and where there is no room.
    """
    tensors = _renamed(state, layout, dtype)
    _require_replaceable(folder, layout)
    try:
        with replace_folder(folder.resolve()) as temporary:
            write_weights(temporary, tensors, dtype, shard_bytes)
            for path, content in layout.documents.items():
                write_json(temporary / path, content)
            for path, content in layout.tensors.items():
                write_tensors(temporary / path, content, METADATA)
    except OSError as error:
        if error.errno in (*NO_ROOM, errno.EACCES, errno.EROFS):
            raise UserError(
                f"{folder}: cannot be written ({error.strerror}), left as it was; free some room or choose another"
            ) from error
        raise


def write_weights(folder: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None, shard_bytes: int) -> None:
    """One file where it fits, else shards of at most ``shard_bytes`` (or one tensor) and an index.

    Beside the tensors, memory for one shard is needed. Raises OSError where the disk is full.
    """
    plan = _plan(tensors, dtype, shard_bytes)
    if len(plan) == 1:
        write_tensors(folder / SINGLE, _converted(tensors, plan[0], dtype), METADATA)
        return
    index: dict[str, str] = {}
    for number, keys in enumerate(plan, 1):
        name = f"model-{number:05d}-of-{len(plan):05d}.safetensors"
        write_tensors(folder / name, _converted(tensors, keys, dtype), METADATA)
        index |= dict.fromkeys(keys, name)
    total = sum(_bytes(tensor, dtype) for tensor in tensors.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))})


def _renamed(state: Mapping[str, Tensor], layout: Layout, dtype: torch.dtype | None) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    homeless = []
    for ours, tensor in state.items():
        theirs = layout.names(ours)
        if theirs is None:
            homeless.append(ours)
        elif theirs in tensors:
            raise ValueError(f"two parameters map to {theirs}")
        else:
            tensors[theirs] = tensor
    if homeless:
        raise UserError(
            f"{len(homeless)} parameters have no place in this layout, such as {homeless[0]}; "
            "choose the layout of the policy's own family"
        )
    like = next(iter(state.values())).dtype
    for theirs, ours in layout.copies.items():
        tensors[theirs] = state[ours]
    for theirs, shape in layout.unused.items():
        tensors[theirs] = torch.zeros((), dtype=dtype or like).expand(shape)
    return tensors


def _require_replaceable(folder: Path, layout: Layout) -> None:
    """The folder is replaced, so it must hold nothing that an export would not write."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file; choose another folder")
    written = {SINGLE, INDEX, *layout.documents, *layout.tensors}
    for path in folder.rglob("*"):
        if path.is_file() and not (
            path.relative_to(folder).as_posix() in written
            or (path.parent == folder and any(path.match(kind) for kind in NUMBERED))
        ):
            raise UserError(f"{folder}: holds {path.name}, which is not part of an export; choose another folder")


def _plan(tensors: Mapping[str, Tensor], dtype: torch.dtype | None, shard_bytes: int) -> list[list[str]]:
    plan: list[list[str]] = [[]]
    filled = 0
    for key, tensor in tensors.items():
        size = _bytes(tensor, dtype)
        if plan[-1] and filled + size > shard_bytes:
            plan.append([])
            filled = 0
        plan[-1].append(key)
        filled += size
    return plan


def _bytes(tensor: Tensor, dtype: torch.dtype | None) -> int:
    return tensor.numel() * (dtype if dtype and tensor.is_floating_point() else tensor.dtype).itemsize


def _converted(tensors: Mapping[str, Tensor], keys: list[str], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """On the CPU, contiguous, and none sharing memory with another, which safetensors refuses."""
    shard: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key in keys:
        tensor = tensors[key].detach()
        tensor = tensor.to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.numel() * tensor.itemsize:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        shard[key] = tensor
    return shard

"""Safetensors."""

from pathlib import Path
from typing import TYPE_CHECKING

from pirl_core.errors import UserError, first_line
from pirl_core.readers.text import open_regular

if TYPE_CHECKING:
    from torch import Tensor

KNOWN = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
"""Kinds of numbers that torch computes with everywhere; others (of 4 and 8 bits, complex) it can merely hold."""
LFS_POINTER = b"version https://git-lfs"


def tensor_shapes(path: Path, remedy: str) -> dict[str, tuple[int, ...]]:
    """By key, from the header alone.

    Raises UserError for a file that is absent, cut short or damaged, or whose numbers are of no KNOWN kind.
    """
    from safetensors import SafetensorError, safe_open

    with open_regular(path, remedy) as raw:
        head = raw.read(len(LFS_POINTER))
    if head == LFS_POINTER:
        raise UserError(f"{path}: only a pointer of Git LFS; run `git lfs pull` in its repository")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, MemoryError, SafetensorError) as error:
        raise UserError(f"{path}: cut short or damaged ({first_line(error)}); {remedy}") from None
    for key, part in slices.items():
        if part.get_dtype() not in KNOWN:
            raise UserError(f"{path}: {key} has numbers of kind {part.get_dtype()}; {', '.join(KNOWN)} can be read")
    return {key: tuple(part.get_shape()) for key, part in slices.items()}


def read_tensors(path: Path, remedy: str) -> "dict[str, Tensor]":
    """All of them, on the CPU. Raises UserError as ``tensor_shapes``."""
    from safetensors.torch import load_file

    tensor_shapes(path, remedy)
    tensors: dict[str, Tensor] = load_file(path)
    return tensors

"""Outputs that are whole or absent, and a full disk that is told by the file it had no room for."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pirl_core.errors import NO_ROOM

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A full disk met in this block is told by this name: writing into an open file raises an error without one."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def replace_folder(folder: Path, main: bool = True) -> Iterator[Path]:
    """Gives an empty temporary folder beside ``folder``: it takes that name if the block ends well, else is removed.

    main: False on all ranks but the one that writes; they get the path and touch nothing.
    """
    temporary, old = (folder.with_name(f".{folder.name}.{role}.partial") for role in ("new", "old"))
    if not main:
        yield temporary
        return
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with naming(folder):
            yield temporary
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with naming(path):
            temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """The same of a text, in UTF-8."""
    write_bytes(path, text.encode())


def write_tensors(path: Path, tensors: "dict[str, Tensor]", metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, written beside and renamed. Raises OSError where the disk is full."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = path.with_name(f".{path.name}.partial")
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if not code:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def copy_tree(source: Path, target: Path, copy: Callable[[str, str], object] = shutil.copy2) -> None:
    """Into a folder that may exist. Raises the error of the first file; shutil's own has lost its number."""
    failed: list[OSError] = []

    def one(path: str, to: str) -> None:
        try:
            copy(path, to)
        except OSError as error:
            failed.append(error)
            raise

    try:
        shutil.copytree(source, target, copy_function=one, dirs_exist_ok=True)
    except shutil.Error:
        if failed:
            raise failed[0] from None
        raise


def write_json(path: Path, content: Any) -> None:
    """Indented, in the order given, so that git shows what changed. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")

"""``python -m pirl_core.checkpoints.convert IN.pt OUT_FOLDER``: a pickled state dict to safetensors, in isolation.

A process of its own, with limits on memory and on what it may write, unpickles with ``weights_only``: torch's reader
that knows tensors and plain containers and refuses any code. The folder appears only if all went well.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pirl_core import console
from pirl_core.errors import UserError
from pirl_core.files import replace_folder

REFUSED, NO_ROOM, NO_WEIGHTS = 3, 4, 5
# Tensors may share memory in a pickle and may not in safetensors; beyond this factor a file is out to fill the disk.
GROWTH = 3
MARGIN = 2**30
# Containers around the weights, as {"model": {"state_dict": ...}}; optimizers keep theirs deeper.
DEPTH = 2
# What wrappers put before every name, and inside names: of data parallelism and workers; of compilation, sharding and
# activation checkpointing.
AROUND, INSIDE = ("module.", "actor."), ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Of the environment only what Python needs, so no tokens.
PASSED = ("HOME", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PATH", "PYTHONPATH", "VIRTUAL_ENV")


def convert(source: Path, folder: Path, key: str | None = None) -> None:
    """Write ``folder``/model.safetensors, or shards. key: the entry that holds the weights, None: found by itself.

    Raises UserError for a pickle that holds anything else than weights, for damage, and where there is no room.
    """
    if not source.is_file():
        raise UserError(f"{source}: no such file; check the path")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already; choose a new folder")
    with replace_folder(folder.resolve()) as temporary:
        command = [sys.executable, "-m", "pirl_core.checkpoints.convert", "--isolated", str(source), str(temporary)]
        done = subprocess.run(
            command + (["--key", key] if key else []),
            env={name: os.environ[name] for name in PASSED if name in os.environ},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise UserError(f"{source}: {_reason(done)}")


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    last = (done.stdout.strip().splitlines() or [""])[-1][:300]
    if done.returncode == REFUSED:
        return f"refused or damaged, nothing in it was run ({last}); ask its author for safetensors"
    if done.returncode == NO_ROOM:
        return f"no room for its tensors ({last}); free memory and disk"
    if done.returncode == NO_WEIGHTS:
        return last
    return f"the isolated process ended with exit code {done.returncode}; ask its author for safetensors"


def find_state(content: Any, key: str | None) -> dict[str, Any]:
    """The tensors of a checkpoint, at its top or in the one entry, at most ``DEPTH`` deep, that holds some, without the
    wrappers' parts of their names. key: that entry, as ``model.state_dict``. Raises UserError where unclear."""
    found = [(name, state) for name, state in _states(content, "", DEPTH) if key in (None, name)]
    if len(found) == 1:
        return _unwrapped(found[0][1])
    names = [name for name, _ in _states(content, "", DEPTH) if name]
    told = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    if key is not None:
        raise UserError(f"--key {key}: no tensors there; give one of {told or 'none'}")
    raise UserError(f"tensors in several entries; name one with --key: {told}" if found else "no tensors in it")


def _states(content: Any, name: str, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping that holds tensors by name, with its dotted place."""
    from torch import Tensor

    if not isinstance(content, Mapping):
        return
    state = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if state:
        yield name, state
    for key, value in content.items() if depth else ():
        yield from _states(value, f"{name}.{key}" if name else str(key), depth - 1)


def _unwrapped(state: dict[str, Any]) -> dict[str, Any]:
    """Raises UserError where two names become one."""
    names = list(state)
    for part in INSIDE:
        names = [name.replace(part, "") for name in names]
    while prefix := next((part for part in AROUND if all(name.startswith(part) for name in names)), None):
        names = [name.removeprefix(prefix) for name in names]
    if len(set(names)) < len(names):
        raise UserError("tensors whose names differ in their wrappers alone; ask its author for safetensors")
    return dict(zip(names, state.values(), strict=True))


def _limit(source: Path) -> None:
    """Memory and file size beyond what this process has now, in proportion to the pickle."""
    size = source.stat().st_size
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    for kind, limit in (
        (resource.RLIMIT_AS, pages * resource.getpagesize() + GROWTH * size + MARGIN),
        (resource.RLIMIT_FSIZE, GROWTH * size + MARGIN),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def _isolated(source: Path, folder: Path, key: str | None) -> int:
    import torch

    from pirl_core.checkpoints.export import SHARD_BYTES, write_weights

    torch.set_num_threads(1)
    _limit(source)
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except MemoryError as error:
        return _say(error, NO_ROOM)
    except Exception as error:  # whatever a hostile or damaged file provokes
        return _say(error, NO_ROOM if "allocate memory" in str(error) else REFUSED)
    try:
        write_weights(folder, find_state(content, key), None, SHARD_BYTES)
    except UserError as error:
        return _say(error, NO_WEIGHTS)
    except (OSError, MemoryError, RuntimeError) as error:
        return _say(error, NO_ROOM)
    return 0


def _say(error: Exception, code: int) -> int:
    # torch's own text goes on to advise weights_only=False, which is the one thing not to do.
    called = re.search(r"GLOBAL (\S+)", str(error))
    first = " ".join(str(error).split(". ")[0].split())
    print(f"it calls {called[1]}" if called else first or type(error).__name__)
    return code


def main(argv: list[str] | None = None) -> int:
    console.speak()
    parser = argparse.ArgumentParser(
        prog="python -m pirl_core.checkpoints.convert", description="Pickle to safetensors."
    )
    parser.add_argument("source", type=Path, help="a .pt, .pth, .bin or .ckpt file")
    parser.add_argument("folder", type=Path, help="the folder to make")
    parser.add_argument("--key", help="the entry that holds the weights, where there are several")
    parser.add_argument("--isolated", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.isolated:
        return _isolated(args.source, args.folder, args.key)
    try:
        convert(args.source, args.folder, args.key)
    except UserError as error:
        return console.refuse("convert", str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

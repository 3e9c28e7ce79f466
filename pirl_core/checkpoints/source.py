"""Where a checkpoint comes from: a folder, or a repository of the Hugging Face hub at one commit."""

from pathlib import Path
from typing import NamedTuple

from pirl_core.errors import UserError
from pirl_core.readers.hub import HUB_ID, snapshot

# Weights, settings and tokenizers; never a pickle. Weights below the root are other steps or optimizers.
WANTED = ("*.safetensors", "*.json", "tokenizer.model", "merges.txt", "vocab.txt")
UNWANTED = ("*/*.safetensors",)


class Checkpoint(NamedTuple):
    """A folder with the files; for one from the hub also its id and the commit (40 hexadecimal digits), to record."""

    folder: Path
    repo: str | None
    commit: str | None


def find_checkpoint(source: str, revision: str | None = None) -> Checkpoint:
    """Download what is not here yet, with the library's own progress bar; a folder is taken as it is.

    source: a folder or ``owner/name``; the folder wins. revision: branch, tag or commit on the hub, None: its main one.
    Raises UserError where there is neither, for a revision of a folder, and for all that goes wrong on the way.
    """
    folder = find_folder(source, revision)
    if folder is not None:
        return Checkpoint(folder, None, None)
    found = snapshot(source, revision, WANTED, UNWANTED)
    return Checkpoint(found, source, found.name)


def find_folder(source: str, revision: str | None = None, here: Path = Path()) -> Path | None:
    """The folder that ``source`` is, seen from ``here``; None for a hub id, which is not asked for.

    Raises UserError as ``find_checkpoint`` does, but for what the hub would say.
    """
    path = here / Path(source).expanduser()
    if path.is_dir():
        if revision is not None:
            raise UserError(f"{source}: revision = {revision!r} needs a hub id, but this is a folder; leave it out")
        return path
    if path.is_file():
        from pirl_core.checkpoints.read import refuse_pickle

        refuse_pickle(path)
        raise UserError(f"{source}: a file; give the folder that holds it")
    if not HUB_ID.fullmatch(source):
        raise UserError(f"{source}: no such folder, and no hub id of the form owner/name; check the path")
    return None

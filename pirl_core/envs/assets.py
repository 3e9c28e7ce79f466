"""What simulators need beside their packages: ``python -m pirl_core.envs.assets fetch libero``, or ``check libero``.

A folder named by the benchmark's variable is taken as it is. Without one, the assets are downloaded from upstream on
first use, into the user's cache; never at import, never with a question. A part of them takes its place only when it
is whole: downloaded beside it, compared with upstream's checksums, renamed. A download that broke off goes on.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pirl_core import console
from pirl_core.envs.damage import damaged
from pirl_core.errors import NO_ROOM, UserError, told

CHUNK = 2**20


class Archive(NamedTuple):
    """A zip file. sha256: as published."""

    url: str
    sha256: str


class Commit(NamedTuple):
    """A commit's files as a zip file. The server packs them anew now and then: its bytes may change, the files may not.

    listing: their ``listing_digest``, from the commit's own tree.
    """

    url: str
    listing: str


class Dataset(NamedTuple):
    """A dataset repository of the Hugging Face hub, of which ``inside`` is the folder that is wanted ("": all)."""

    repo: str
    inside: str


class Part(NamedTuple):
    """folder: below the root of the assets ("": the root). holds: paths in it that tell whether it is there."""

    folder: str
    source: Archive | Commit | Dataset
    holds: tuple[str, ...]


class Assets(NamedTuple):
    """variable: of the environment, names an own folder. terms: what the licence says, in a few words."""

    variable: str
    parts: tuple[Part, ...]
    terms: str


ASSETS = {
    "libero": Assets(
        "PIRL_LIBERO_ASSETS",
        (
            Part(
                "",
                Dataset("lerobot/libero-assets", ""),
                ("articulated_objects", "scenes", "stable_hope_objects", "stable_scanned_objects", "textures"),
            ),
        ),
        "from Google Scanned Objects, HOPE and TurboSquid",
    ),
    # The table-top tasks need none of these: they are for put-on-plate and SIMPLER.
    "maniskill": Assets(
        "PIRL_MANISKILL_ASSETS",
        (
            Part("carrot", Dataset("RLinf/maniskill_assets", "carrot"), ("more_carrot", "more_plate", "more_table")),
            Part(
                "tasks/bridge_v2_real2sim_dataset",
                Archive(
                    "https://huggingface.co/datasets/haosulab/ManiSkill_bridge_v2_real2sim/resolve/main/"
                    "bridge_v2_real2sim_dataset.zip",
                    "618512a205b4528cafecdad14b1788ed1130879f3064deb406516ed5b9c5ba92",
                ),
                ("custom", "real_inpainting"),
            ),
            Part(
                "robots/widowx",
                Commit(
                    "https://github.com/haosulab/ManiSkill-WidowX250S/archive/"
                    "6a12bb745d964aab9fc897f0999cad53aa29000c.zip",
                    "7b01aced496a395b9022270ae8720f6d02222d4c3241ea35b8a93519a10bdb82",
                ),
                ("wx250s.urdf",),
            ),
        ),
        "CC BY-NC 4.0 (put-on-plate), Apache-2.0 (bridge)",
    ),
    # Code and data of calvin_env, which is not on the package index.
    "calvin": Assets(
        "PIRL_CALVIN_ENV",
        (
            Part(
                "",
                Commit(
                    "https://github.com/mees/calvin_env/archive/797142c588c21e76717268b7b430958dbd13bf48.zip",
                    "3dc9f50282837f97a470ff8f8bb79860684a1e8b7d86143a8c82878e9985786f",
                ),
                ("calvin_env", "conf", "data"),
            ),
        ),
        "MIT",
    ),
}


def find(benchmark: str) -> Path:
    """The folder with all of the benchmark's assets; downloads those that lack, unless the variable names a folder.

    Raises UserError in one line for an incomplete folder of the user's, and for all that goes wrong with a download.
    """
    if os.environ.get(ASSETS[benchmark].variable):
        require_own(benchmark)
        check_whole(benchmark, root(benchmark))
        return root(benchmark)
    return fetch(benchmark)


def require_own(benchmark: str) -> None:
    """Raises UserError where the variable names a folder that lacks something; without one they are downloaded."""
    own = os.environ.get(ASSETS[benchmark].variable)
    if own and (lacking := missing(benchmark)):
        raise UserError(
            f"{ASSETS[benchmark].variable}={own} lacks {', '.join(lacking)}; unset it to use a download of our own,"
            f" or run python -m pirl_core.envs.assets fetch {benchmark} to fill the folder"
        )


def root(benchmark: str) -> Path:
    """Where they belong: the variable's folder, or ``~/.cache/pirl/<benchmark>`` (``XDG_CACHE_HOME`` respected)."""
    own = os.environ.get(ASSETS[benchmark].variable)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(own).expanduser() if own else cache / "pirl" / benchmark


def missing(benchmark: str) -> list[str]:
    """Paths below the root that should be there and are not."""
    here = root(benchmark)
    paths = [Path(part.folder) / name for part in ASSETS[benchmark].parts for name in part.holds]
    return [str(path) for path in paths if not (here / path).exists()]


@cache
def check_whole(benchmark: str, folder: Path) -> None:
    """Raises UserError where a file is damaged; downloads were compared with checksums, so this is for other folders.

    A process looks once.
    """
    broken = damaged(folder)
    if broken:
        raise UserError(
            f"{benchmark}: {len(broken)} file{'s' * (len(broken) > 1)} in {folder} damaged, first"
            f" {broken[0].relative_to(folder)}; put upstream's there, or unset {ASSETS[benchmark].variable} and run"
            f" python -m pirl_core.envs.assets fetch {benchmark}"
        )


def fetch(benchmark: str) -> Path:
    """Download the parts that lack; returns the root. Processes that ask at the same time wait for the first."""
    here = root(benchmark)
    if not missing(benchmark):
        return here
    try:
        with alone(here):
            for part in ASSETS[benchmark].parts:
                if not all((here / part.folder / name).exists() for name in part.holds):
                    _download(part, here / part.folder, _beside(here, part))
    except UserError:
        raise
    except Exception as error:  # of the hub's client, of one of its HTTP stacks, of the system
        raise _line(benchmark, error) from error
    lacking = missing(benchmark)
    if lacking:
        raise UserError(f"{benchmark}: upstream's download into {here} lacks {', '.join(lacking)}")
    return here


def _download(part: Part, target: Path, work: Path) -> None:
    """work: the folder for what is not whole yet; it stays where the download breaks off."""
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{target}: exists but lacks {' or '.join(part.holds)}; remove it, or give another folder")
    work.mkdir(parents=True, exist_ok=True)
    if isinstance(part.source, Dataset):
        whole = _snapshot(part.source, work)
    else:
        archive = work / "archive.zip"
        _fetch_file(part.source.url, archive)
        if isinstance(part.source, Archive) and _sha256(archive) != part.source.sha256:
            raise _other(archive, part.source.url, "the checksum differs from the published one")
        whole = _unpacked(archive, work / "unpacked")
        if isinstance(part.source, Commit) and listing_digest(whole) != part.source.listing:
            raise _other(archive, part.source.url, "its files are not those of the commit")
    if target.exists():
        target.rmdir()
    target.parent.mkdir(parents=True, exist_ok=True)
    whole.rename(target)
    shutil.rmtree(work, ignore_errors=True)


def _snapshot(source: Dataset, work: Path) -> Path:
    """The dataset's files, each compared with the checksum that the hub lists."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.hf_api import RepoFile

    commit = HfApi().dataset_info(source.repo).sha
    wanted = f"{source.inside}/*" if source.inside else None
    folder = work / "snapshot"
    snapshot_download(source.repo, repo_type="dataset", revision=commit, local_dir=folder, allow_patterns=wanted)
    for entry in HfApi().list_repo_tree(source.repo, source.inside or None, recursive=True, revision=commit,
                                        repo_type="dataset"):  # fmt: skip
        if isinstance(entry, RepoFile) and not _agrees(folder / entry.path, entry.blob_id, entry.lfs):
            (folder / entry.path).unlink(missing_ok=True)
            raise UserError(f"{source.repo}: {entry.path} is not what the hub lists; run the command again")
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return folder / source.inside


def _agrees(path: Path, blob: str, lfs: object) -> bool:
    """Whether the file has the SHA-256 of large files, or git's SHA-1 of others."""
    if not path.is_file():
        return False
    if lfs is not None:
        return _sha256(path) == getattr(lfs, "sha256", None)
    return _git_blob(path) == blob


def listing_digest(folder: Path) -> str:
    """SHA-256 over ``git``'s number of each file and its path, a line each, as ``git ls-tree -r`` has them."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return hashlib.sha256("".join(f"{_git_blob(paths[name])} {name}\n" for name in sorted(paths)).encode()).hexdigest()


def _git_blob(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _fetch_file(url: str, path: Path) -> None:
    """Goes on where an earlier download broke off."""
    from tqdm import tqdm

    begun = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            begun = begun if answer.status == 206 else 0
            size = int(answer.headers.get("Content-Length") or 0)
            bar = tqdm(total=begun + size or None, initial=begun, unit="B", unit_scale=True, desc=url.split("/")[-1])
            with bar, path.open("ab" if begun else "wb") as file:
                while chunk := answer.read(CHUNK):
                    bar.update(file.write(chunk))
        if size and path.stat().st_size < begun + size:
            raise ConnectionError(f"{path.stat().st_size} of {begun + size} bytes came")
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing lacks
            raise


def _other(archive: Path, url: str, what: str) -> UserError:
    """The next attempt shall not go on from these bytes."""
    archive.unlink()
    return UserError(f"{url}: {what}; run the command again")


def _unpacked(archive: Path, folder: Path) -> Path:
    """The archive's content, without the one folder in which some archives have it all."""
    from pirl_core.readers.archives import open_archive

    shutil.rmtree(folder, ignore_errors=True)
    try:
        with open_archive(archive, "run the command again") as file:
            file.extractall(folder)
    except UserError:
        archive.unlink()
        raise
    inner = list(folder.iterdir())
    return inner[0] if len(inner) == 1 and inner[0].is_dir() else folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _beside(here: Path, part: Part) -> Path:
    return here.with_name(f".{here.name}.{part.folder.replace('/', '-') or 'all'}.partial")


@contextmanager
def alone(here: Path) -> Iterator[None]:
    """For one process of this machine at a time: what writes the file or folder ``here``."""
    here.parent.mkdir(parents=True, exist_ok=True)
    with here.with_name(f".{here.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _line(benchmark: str, error: Exception) -> UserError:
    said = (str(error).strip().splitlines() or ["no details"])[0][:160]
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return UserError(f"{benchmark}: no room for its assets in {root(benchmark).parent}; free some, or set"
                         f" {ASSETS[benchmark].variable} to a folder on a larger disk")  # fmt: skip
    return UserError(
        f"{benchmark}: the download of its assets broke off ({type(error).__name__}: {said}); run python -m"
        f" pirl_core.envs.assets fetch {benchmark} where there is network, or set {ASSETS[benchmark].variable} to a"
        " folder that holds them"
    )


def main(argv: list[str] | None = None) -> int:
    console.speak()
    parser = argparse.ArgumentParser(
        prog="python -m pirl_core.envs.assets",
        description="Assets of the simulators: fetch what lacks, or tell what lacks.",
    )
    parser.add_argument("command", choices=("fetch", "check"), help="download what lacks; or tell what lacks")
    parser.add_argument("benchmark", choices=tuple(ASSETS), help="whose assets")
    args = parser.parse_args(argv)
    try:
        if args.command == "fetch":
            fetch(args.benchmark)
        lacking = missing(args.benchmark)
        if lacking:
            raise UserError(
                f"{args.benchmark}: {root(args.benchmark)} lacks {', '.join(lacking)}; run python -m"
                f" pirl_core.envs.assets fetch {args.benchmark}, or set {ASSETS[args.benchmark].variable}"
            )
        check_whole(args.benchmark, root(args.benchmark))
        print(f"{args.benchmark}: complete in {root(args.benchmark)} ({ASSETS[args.benchmark].terms})")
    except (UserError, OSError) as error:
        if (said := told(error)) is None:
            raise
        return console.refuse("assets", said)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

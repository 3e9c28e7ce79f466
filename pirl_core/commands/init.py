"""``pirl init``: a folder in which an installed package works, with the pipeline's description and its parameters."""

import argparse
import subprocess
from pathlib import Path

from pirl_core.commands.scale import describe, switch
from pirl_core.errors import UserError
from pirl_core.files import write_text
from pirl_core.readers.text import read_text

SUMMARY = "make the working folder one to run the pipeline in"
WORKSPACE = Path(__file__).with_name("workspace")
FILES = {"dvc.yaml": "pipeline.yaml", "Makefile": "Makefile", ".dvcignore": "dvcignore", ".gitignore": "gitignore"}
"""Name → that in WORKSPACE, where they are links to the repository's own, but for the Makefile. By their own names DVC
would take them for parts of the repository's pipeline."""
PARAMS = "params.yaml"
DEFAULT = "laptop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    about = f"preset that params.yaml is written from (default: {DEFAULT}, unless there is a params.yaml)"
    parser.add_argument("scale", nargs="?", help=about)


def run(args: argparse.Namespace) -> None:
    init(Path(), args.scale)
    print(describe(Path(PARAMS)))


def init(folder: Path, scale: str | None) -> None:
    """What is there and equal is left alone. Raises UserError for a file that is there and differs; then nothing is
    written."""
    remedy = f"{folder.absolute()} has one of its own; move it away, or take another folder"
    for name, origin in FILES.items():
        path = folder / name
        if path.exists() and read_text(path, remedy) != _text(origin):
            raise UserError(f"{name} is here and is not that of pirl init: {remedy}")
    if scale or not (folder / PARAMS).exists():
        switch(scale or DEFAULT, folder / PARAMS, force=False)
    for name, origin in FILES.items():
        write_text(folder / name, _text(origin))
    if not (folder / ".dvc").exists():
        _init_dvc(folder)


def _text(origin: str) -> str:
    return read_text(WORKSPACE / origin, "install pirl_core again")


def _init_dvc(folder: Path) -> None:
    """With git where the folder is in a repository of it; DVC sends nothing to its makers, and asks them nothing."""
    from dvc.repo import Repo

    asked = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--show-prefix"], capture_output=True, text=True, check=False
    )
    in_git = asked.returncode == 0
    opened = Repo.init(str(folder), no_scm=not in_git, subdir=bool(asked.stdout.strip()))
    with opened as repo, repo.config.edit("repo") as config:
        config["core"] |= {"analytics": False, "check_update": False, "autostage": False}

"""``python -m pirl_core.commands.repro [OPTIONS] [STAGE...]``: `dvc repro` that looks first and waits its turn.

DVC clears a stage's outputs before it runs, so first all of params.yaml is checked, that there are stages of the names
given, and that they will find what they need from outside. Then what a kill left of DVC's files is put right. Where
another run of the pipeline is at work in this folder, it waits; DVC itself would fail.
"""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

from pirl_core.commands.inputs import lacking, with_needs
from pirl_core.commands.scale import describe, switch
from pirl_core.commands.targets import evaluations, find_stages, stage_names
from pirl_core.errors import UserError, told
from pirl_core.params.file import load_params
from pirl_core.params.preset import load_preset
from pirl_core.report.papers.beside import check_models
from pirl_core.stages.lock import PIPELINE, take, waiting_for
from pirl_core.stages.mend import mend
from pirl_core.stages.sources import write_sources

SHORT = re.compile("-[a-zA-Z]{2,}")
# Options of dvc repro that say which stages run, and what a failure ends.
ALONE = {"-s", "--single-item", "--downstream"}
BEYOND = {"-p", "--pipeline", "-P", "--all-pipelines"}
FORCED = {"-f", "--force", "--force-downstream"}
GOING = {"-k", "--keep-going", "-i", "--ignore-errors"}


def main(argv: list[str] | None = None) -> int:
    """Exit code 2 for what DVC should not begin with. Else DVC takes this process's place, and with it the lock."""
    parser = argparse.ArgumentParser(
        prog="python -m pirl_core.commands.repro",
        usage="%(prog)s [OPTION...] [STAGE...]",
        description="Run the pipeline with DVC, after a check of params.yaml and of what a kill left of DVC's files.",
        epilog="Options and stages are those of dvc repro.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--experiment",
        action="append",
        default=[],
        metavar="NAME",
        help="its stages up to its evaluation; may be repeated",
    )
    parser.add_argument("--scale", metavar="NAME", help="first write params.yaml from this preset")
    parser.add_argument("--overwrite", action="store_true", help="with --scale: a file with edits of your own too")
    args, given = parser.parse_known_args(argv)
    try:
        if not Path("dvc.yaml").is_file():
            raise UserError(f"{Path.cwd()}: no dvc.yaml here; run where it is, or write it here with pirl init")
        _checked(given, args.experiment, args.scale)
        turn = take(PIPELINE, tell=lambda holder: say(waiting_for(holder)))
        if args.scale:
            # Not before its turn: a run of the pipeline reads the file again at each stage.
            switch(args.scale, Path("params.yaml"), args.overwrite)
            print(describe(Path("params.yaml")), flush=True)
        # The file may be another after a long wait.
        words = _checked(given, args.experiment, mine=True)
        for line in mend(Path()):
            say(line)
    except (UserError, OSError) as error:
        if (said := told(error)) is None:
            raise
        say(said)
        return 2
    except KeyboardInterrupt:
        return 130
    os.set_inheritable(turn.fileno(), True)
    # DVC gives up its lock while a stage runs: it has to wait to get it back, or a finished training is not recorded.
    return os.execv(
        sys.executable, [sys.executable, "-m", "pirl_core.commands.dvc", "--wait-for-lock", "repro", *words]
    )


def _checked(given: list[str], experiments: list[str], scale: str | None = None, mine: bool = False) -> list[str]:
    """The words for DVC. Raises UserError for bad parameters, for names of nothing, and for what stages will not find;
    of a ``scale`` that is still to be written for names alone. mine: it is this command's turn."""
    params = load_preset(scale) if scale else load_params(Path("params.yaml"))
    check_models(params)
    # DVC's short options may stand together: -sf.
    given = [part for word in given for part in ([f"-{x}" for x in word[1:]] if SHORT.fullmatch(word) else [word])]
    words = given + [name for experiment in experiments for name in evaluations(params, experiment)]
    # No option of dvc repro takes a value.
    targets = [word for word in words if not word.startswith("-")]
    names = find_stages(params, targets, "--glob" in words, Path())
    if scale:
        return words
    alone = bool(ALONE & set(words))
    if not alone:
        names = with_needs(params, stage_names(params) if BEYOND & set(words) else names)
    wrong = lacking(params, Path(), names)
    if mine and (wrong or alone or "--dry" in words):
        write_sources(params)  # before DVC judges stages without the one that does this
    stale = set(wrong) if FORCED & set(words) or not wrong else _stale(list(wrong), alone)
    for name, said in wrong.items():
        if stale & {name, *(() if alone else with_needs(params, [name]))}:
            if not GOING & set(words):
                raise UserError(said)
            say(f"{name} will not run: {said}")
    return words


def _stale(names: list[str], alone: bool) -> set[str]:
    """Of these stages and, but for ``alone``, those that they need: what is out of date. What is not asks for nothing,
    nor does what only has to be fetched from the cache."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            status = repo.status(targets=names, with_deps=not alone)
    except DvcException:  # another DVC is at work, or dvc.yaml is not what we think
        return set(names)
    return {name for name, changes in status.items() if not all(map(_is_gone, changes))}


def _is_gone(change: Any) -> bool:
    outputs = change.get("changed outs", {}) if isinstance(change, dict) else {}
    return bool(outputs) and set(change) == {"changed outs"} and set(outputs.values()) == {"deleted"}


def say(line: str) -> None:
    print(f"pirl: repro: {' '.join(line.split())}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

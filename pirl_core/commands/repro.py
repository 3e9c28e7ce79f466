"""``python -m pirl_core.commands.repro [OPTIONS] [STAGE...]``: `dvc repro` that looks first and waits its turn.

DVC clears a stage's outputs before it runs, so first all of params.yaml is checked, that there are stages of the names
given, and that they will find what they need from outside. Then what a kill left of DVC's files is put right. Where
another run of the pipeline is at work in this folder, it waits; DVC itself would fail.
"""

import argparse
import os
import sys
from pathlib import Path

from pirl_core.commands.inputs import lacking, with_needs
from pirl_core.commands.targets import evaluations, find_stages, stage_names
from pirl_core.errors import UserError, told
from pirl_core.params.file import load_params
from pirl_core.report.paper import check_models
from pirl_core.stages.lock import LOCKS, take
from pirl_core.stages.mend import mend

PIPELINE = LOCKS / "pipeline"
"""Held by whoever runs the stages of a workspace: this command, or a flow."""
# Options of dvc repro that say which stages run.
SINGLE = {"-s", "--single-item"}
BEYOND = {"-p", "--pipeline", "-P", "--all-pipelines", "--downstream"}
FORCED = {"-f", "--force", "--force-downstream"}


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
    args, given = parser.parse_known_args(argv)
    try:
        if not Path("dvc.yaml").is_file():
            raise UserError(f"{Path.cwd()}: no dvc.yaml here; run in the repository's root")
        words = _checked(given, args.experiment)
        turn = take(PIPELINE, tell=lambda holder: say(f"process {holder} runs the pipeline here; waiting for its end"))
        # The file may be another after a long wait.
        words = _checked(given, args.experiment)
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


def _checked(given: list[str], experiments: list[str]) -> list[str]:
    """The words for DVC. Raises UserError for bad parameters, and for names of nothing."""
    params = load_params(Path("params.yaml"))
    check_models(params)
    words = given + [name for experiment in experiments for name in evaluations(params, experiment)]
    # No option of dvc repro takes a value.
    targets = [word for word in words if not word.startswith("-")]
    names = find_stages(params, targets, "--glob" in words, Path())
    if not SINGLE & set(words):
        names = with_needs(params, stage_names(params) if BEYOND & set(words) else names)
    for name, said in lacking(params, Path(), names).items():
        if FORCED & set(words) or _would_run(name):
            raise UserError(said)
    return words


def _would_run(name: str) -> bool:
    """Whether the stage, or one that it needs, is out of date: what is up to date asks for nothing."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            return bool(repo.status(targets=[name], with_deps=True))
    except DvcException:  # another DVC is at work, or dvc.yaml is not what we think
        return True


def say(line: str) -> None:
    print(f"pirl: repro: {' '.join(line.split())}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

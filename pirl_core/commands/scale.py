"""``python -m pirl_core.commands.scale NAME`` writes params.yaml from a preset; without a name it tells the scale.

Without a name it also checks the whole file.
"""

import argparse
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

from pirl_core import console
from pirl_core.errors import UserError, told
from pirl_core.files import write_text
from pirl_core.params.file import load_params
from pirl_core.params.preset import preset_names, preset_text
from pirl_core.readers.text import read_bytes
from pirl_core.report.papers.beside import check_models
from pirl_core.stages.lock import PIPELINE, take, waiting_for

SUMMARY = "write params.yaml from a preset, or tell which scale it holds and check it"
REMEDY = "give another --params"


def switch(scale: str, path: Path, force: bool) -> None:
    """Raises UserError for a broken preset, and rather than overwrite a file that is none of them, unless ``force``."""
    text = preset_text(scale)
    if path.exists() and not force and not _is_preset(read_bytes(path, REMEDY)):
        raise UserError(
            f"{path} has edits that would be lost; keep a copy and add --force (make: FORCE=1, repro: --overwrite)"
        )
    write_text(path, text)


def _is_preset(content: bytes) -> bool:
    named = [name for name in preset_names() if f"\nscale: {name}\n".encode() in content]
    for name in named:
        # A preset of one's own may be broken: then the file is none that it wrote.
        with suppress(UserError):
            if preset_text(name).encode() == content:
                return True
    return False


def describe(path: Path) -> str:
    """One line on a valid parameter file. Raises UserError for an invalid one."""
    params = load_params(path)
    check_models(params)
    edited = "" if _is_preset(read_bytes(path, REMEDY)) else ", edited"
    if params.risk.experiments:
        risk, seeds = params.risk, params.seeds
        runs = len(risk.experiments) * len(risk.methods) * len(seeds)
        return (
            f"{path}: scale {params.scale}{edited}; experiments {', '.join(risk.experiments)}; methods "
            f"{', '.join(risk.methods)}; γ {', '.join(f'{gamma:g}' for gamma in risk.gammas)}; seeds "
            f"{', '.join(map(str, seeds))} ({runs} runs of stage risk)"
        )
    count = len(params.experiments) * len(params.seeds)
    return (
        f"{path}: scale {params.scale}{edited}; experiments {', '.join(params.experiments)}; "
        f"policies {', '.join(params.policies)}; seeds {', '.join(map(str, params.seeds))} ({count} SFT runs, "
        f"{count * len(params.methods)} RL runs)"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    about = "preset to write; left out: tell and check the scale"
    parser.add_argument("scale", nargs="?", help=about)
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="parameter file (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite a file with edits of your own")


def run(args: argparse.Namespace) -> None:
    if args.scale:
        # A run of the pipeline reads the file again at each stage.
        pipeline = args.params.with_name("dvc.yaml").is_file()
        with take(args.params.parent / PIPELINE, tell=_say_busy) if pipeline else nullcontext():
            switch(args.scale, args.params, args.force)
    print(describe(args.params))


def _say_busy(holder: str) -> None:
    print(f"pirl: scale: {waiting_for(holder)}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    console.speak()
    parser = argparse.ArgumentParser(
        prog="python -m pirl_core.commands.scale", description=(__doc__ or "").split("\n")[0]
    )
    add_arguments(parser)
    try:
        run(parser.parse_args(argv))
    except (UserError, OSError) as error:
        if (said := told(error)) is None:
            raise
        return console.refuse("scale", said)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

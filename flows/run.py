"""``python -m flows.run``: the flow once, from the command line. It brings its own Prefect server unless one is set."""

import argparse
import atexit
import sys
from pathlib import Path
from typing import Any

from flows.processes import Guards
from flows.server import free_port, known_server, require_server, start_server
from flows.workspace import check
from pirl_core import console
from pirl_core.errors import UserError, told
from pirl_core.readers.strict_yaml import parse_yaml


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.run",
        description="Run the stages of dvc.yaml as a Prefect flow, independent ones side by side.",
        epilog="With PREFECT_API_URL set that server shows the run; else a temporary server does, as long as it takes.",
    )
    parser.add_argument(
        "--experiment",
        action="append",
        metavar="NAME",
        help="an entry of 'experiments' in params.yaml; may be repeated (default: all)",
    )
    parser.add_argument("--scale", metavar="NAME", help="run this preset instead of params.yaml, in a folder apart")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="another value for a key of params.yaml, as rl.actor_lr=1e-5; may be repeated; in a folder apart",
    )
    parser.add_argument("--force", action="store_true", help="run all stages from their beginning, even if unchanged")
    parser.add_argument(
        "--keep-going",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="when a stage fails, go on with those that do not need it",
    )
    return parser


def parse_overrides(given: list[str]) -> dict[str, Any]:
    """``rl.actor_lr=1e-5`` and the like; values as in params.yaml. Raises UserError."""
    overrides = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"--set {text}: must be KEY=VALUE, as rl.actor_lr=1e-5")
        overrides[key.strip()] = parse_yaml(value, f"--set {text}")
    return overrides


def main(argv: list[str] | None = None) -> int:
    """0; 1 when a stage failed; 2 for bad parameters, told in one line before anything runs; 130 after Ctrl-C."""
    console.speak()
    args = parser().parse_args(argv)
    try:
        overrides = parse_overrides(args.overrides)
        check(Path.cwd(), args.scale, overrides, args.experiment)
        find_server()
        from flows.pipeline import pirl

        state = pirl(args.experiment, args.scale, overrides or None, args.force, args.keep_going, return_state=True)
        print(f"pirl: flow: {state.message}", file=sys.stdout if state.is_completed() else sys.stderr)
        if state.is_completed() and sys.stdout.isatty():
            print("\nNext: pirl runs lists what was tried; python -m pirl_core.report.show prints the table")
        return 0 if state.is_completed() else 2 if state.name == "Refused" else 1
    except (UserError, OSError) as error:
        if (said := told(error)) is None:
            raise
        return console.refuse("flow", said)
    except KeyboardInterrupt:
        print("pirl: flow: stopped; a rerun goes on from the last checkpoints", file=sys.stderr)
        return 130


def find_server() -> None:
    """The server that PREFECT_API_URL or Prefect's profile names; without one, a temporary one with its UI."""
    from prefect.context import refresh_global_settings_context

    if api_url := known_server():
        require_server(api_url)
        return
    guards = Guards()
    # Done after Prefect has sent its last logs, which happens as Python ends its threads.
    atexit.register(guards.end_all)
    # Schedules are the business of a server that stays.
    _, api_url = start_server(guards, free_port(), scheduling=False)
    refresh_global_settings_context()
    print(f"Prefect UI while this runs: {api_url.removesuffix('/api')}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

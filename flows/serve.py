"""``python -m flows.serve``: Prefect server, UI and the deployment ``pirl/local`` in one terminal; Ctrl-C ends it all.

The deployment runs on its schedule and from the UI, one run at a time. Where nothing has changed, a run takes seconds.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from flows.deployment import add_schedule
from flows.processes import Guards
from flows.server import start_server
from flows.workspace import check
from pirl_core import console
from pirl_core.errors import UserError, told


def port_of(api_url: str) -> int | None:
    """None where it names none, or is no address."""
    with contextlib.suppress(ValueError):
        return urlsplit(api_url).port
    return None


def _port(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError("give 1 to 65535")
    return value


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.serve", description="Start the Prefect server and serve the pipeline's deployment."
    )
    add_schedule(parser)
    parser.add_argument(
        "--port",
        type=_port,
        default=port_of(os.environ.get("PREFECT_API_URL", "")) or 4200,
        help="of the server on 127.0.0.1 (default: that of PREFECT_API_URL, else 4200)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """0 after Ctrl-C; 1 when the server or the deployment ended by itself; 2 for bad input."""
    console.speak()
    args = parser().parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    server, deployment = Guards(), Guards()
    try:
        check(Path.cwd(), None, None, None)
        answering, api_url = start_server(server, args.port)
        print(f"Prefect UI: {api_url.removesuffix('/api')}", flush=True)
        schedule = ["--cron", args.cron, "--timezone", args.timezone, *(["--paused"] if args.paused else [])]
        serving = deployment.start(
            [sys.executable, "-m", "flows.deployment", *schedule], Path.cwd(), dict(os.environ), None
        )
        while answering.poll() is None and serving.poll() is None:
            time.sleep(0.5)
        if serving.poll() == 2:
            return 2
        name = "server" if serving.poll() is None else "deployment"
        print(f"pirl: serve: the {name} ended by itself; all is stopped, start again", file=sys.stderr)
        return 1
    except (UserError, OSError) as error:
        if (said := told(error)) is None:
            raise
        return console.refuse("serve", said)
    except KeyboardInterrupt:
        print("pirl: serve: stopping", flush=True)
        return 0
    finally:
        # The deployment still has to tell the server that its schedule is off.
        deployment.end_all()
        server.end_all()


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

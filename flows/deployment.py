"""``python -m flows.deployment``: serve the deployment ``pirl/local`` with a server that runs elsewhere.

`make serve` starts a server and this. Ctrl-C ends it, and switches the schedule off, so that no late runs pile up.
"""

import argparse
import os
import sys
from pathlib import Path

from flows.server import known_server, require_server
from pirl_core import console
from pirl_core.errors import UserError

NAME = "local"


def local_timezone() -> str:
    """The machine's, as its clock is set; UTC where it does not say."""
    zone = os.environ.get("TZ") or str(Path("/etc/localtime").resolve()).rpartition("/zoneinfo/")[2]
    return zone if "/" in zone and not zone.startswith("/") else "UTC"


def add_schedule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cron", default="0 2 * * *", help="when to run, as cron says it; empty for never (default: %(default)s)"
    )
    parser.add_argument("--timezone", default=local_timezone(), help="of the schedule (default: %(default)s)")
    parser.add_argument("--paused", action="store_true", help="create the schedule, but leave it switched off")


def main(argv: list[str] | None = None) -> int:
    console.speak()
    parser = argparse.ArgumentParser(
        prog="python -m flows.deployment",
        description="Serve the pipeline's deployment, one run at a time, with the server of PREFECT_API_URL.",
    )
    add_schedule(parser)
    args = parser.parse_args(argv)
    try:
        serve(args.cron, args.timezone, args.paused)
    except UserError as error:
        return console.refuse("serve", str(error))
    return 0


def serve(cron: str, timezone: str, paused: bool) -> None:
    """Until Ctrl-C. Raises UserError for a schedule that is none, or without a server that answers."""
    api_url = known_server()
    if api_url is None:
        # Prefect would start one of its own, open to every page.
        raise UserError("PREFECT_API_URL is not set; set it to a server's API, or run make serve, which brings one")
    require_server(api_url)
    from prefect.schedules import Cron

    from flows.pipeline import pirl

    try:
        schedule = Cron(cron, timezone=timezone, active=not paused) if cron else None
    except ValueError as error:
        raise UserError(f"--cron {cron!r}, --timezone {timezone!r}: {' '.join(str(error).split())}") from None
    # A second run waits for the first. (A limit kept by the server would outlive a killed run by minutes.)
    pirl.serve(name=NAME, schedule=schedule, limit=1)


if __name__ == "__main__":
    sys.exit(main())

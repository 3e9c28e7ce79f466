"""A Prefect server of our own that ends when we do, however we end: Prefect's temporary one outlives a SIGKILL."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from flows.processes import Guards
from pirl_core.errors import UserError

LOG = Path(".pirl/prefect-server.log")
_START_SECONDS = 120.0
# It would wait for its connections to close; what it knows is in its database.
_GRACE_SECONDS = 1.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(api_url: str) -> bool:
    try:
        return httpx.get(f"{api_url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def start_server(guards: Guards, port: int, *options: str) -> tuple["subprocess.Popen[bytes]", str]:
    """Start a server under ``guards``. Returns its process, and the address of its API once it answers.

    Sets PREFECT_API_URL for what is started after it. Raises UserError when the port is taken or it does not start.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise UserError(f"port {port} on this machine: {error}; choose another with --port") from None
    api_url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), *options]
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    # The pages would look for their server at port 4200.
    environment["PREFECT_SERVER_UI_API_URL"] = api_url
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb") as log:
        process = guards.start(command, Path.cwd(), environment, log, _GRACE_SECONDS)
    _wait(process, api_url)
    os.environ["PREFECT_API_URL"] = api_url
    return process, api_url


def _wait(process: "subprocess.Popen[bytes]", api_url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not answers(api_url):
        if process.poll() is not None or time.monotonic() > deadline:
            raise UserError(f"the Prefect server did not start; its reason is in {LOG}")
        time.sleep(0.2)

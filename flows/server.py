"""A Prefect server of our own that ends when we do, however we end: Prefect's temporary one outlives a SIGKILL."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from flows.lines import Transcript
from flows.processes import Guards
from pirl_core.errors import UserError, first_line

LOG = Path(".pirl/prefect-server.log")
_START_SECONDS = 120.0
# It would wait for its connections to close; what it knows is in its database.
_GRACE_SECONDS = 1.0
_SHOWN = 300
# Once to connect, once to answer.
_ANSWER_SECONDS = 4.0


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


def known_server() -> str | None:
    """The address that PREFECT_API_URL or Prefect's profile names. Raises UserError where its settings are none."""
    from prefect.settings import get_current_settings

    try:
        return get_current_settings().api.url
    except ValueError as error:
        raise UserError(f"Prefect's settings: {' '.join(str(error).split())}; correct the variable") from None


def require_server(api_url: str) -> None:
    """Raises UserError, within ten seconds, unless a Prefect server answers there."""
    try:
        answer = httpx.get(f"{api_url.rstrip('/')}/health", timeout=_ANSWER_SECONDS)
    except httpx.UnsupportedProtocol:
        problem = "must begin with http:// or https://"
    except httpx.TimeoutException:
        problem = f"no answer within {_ANSWER_SECONDS:.0f} s"
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, ImportError) as error:
        problem = f"nothing answers ({first_line(error)})"
    else:
        # A server that asks who we are is one; what is sent there by Prefect itself says it.
        if answer.status_code in (401, 403) or (answer.status_code == 200 and answer.text.strip() == "true"):
            return
        problem = f"no Prefect API ({answer.status_code} for /health); its address ends in /api"
    raise UserError(f"PREFECT_API_URL = {api_url}: {problem}; start that server, correct it or unset it")


def start_server(guards: Guards, port: int, scheduling: bool = True) -> tuple["subprocess.Popen[bytes]", str]:
    """Start a server under ``guards``. Returns its process, and the address of its API once it answers.

    scheduling: runs that are due are started; else only what is asked for. Sets PREFECT_API_URL for what is started
    after it. Raises UserError when the port is taken, a proxy's address is none, or it does not start.
    """
    try:
        httpx.Client().close()
    except (httpx.InvalidURL, ValueError, ImportError) as error:
        problem = f"HTTP_PROXY, HTTPS_PROXY or ALL_PROXY: {first_line(error)}; correct it or unset it"
        raise UserError(problem) from None
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise UserError(f"port {port} on this machine: {error}; choose another with --port") from None
    api_url = f"http://127.0.0.1:{port}/api"
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    if not scheduling:
        for service in ("SCHEDULER", "LATE_RUNS"):
            environment[f"PREFECT_SERVER_SERVICES_{service}_ENABLED"] = "false"
    LOG.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "flows.gate", str(port)]
    with LOG.open("wb") as log:
        process = guards.start(command, Path.cwd(), environment, log, _GRACE_SECONDS)
    _wait(process, api_url)
    os.environ["PREFECT_API_URL"] = api_url
    return process, api_url


def _wait(process: "subprocess.Popen[bytes]", api_url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not answers(api_url):
        if process.poll() is not None:
            raise UserError(f"the Prefect server did not start: {_reason()} ({LOG})")
        if time.monotonic() > deadline:
            waited = f"it did not answer within {_START_SECONDS:.0f} s"
            raise UserError(f"the Prefect server did not start: {waited}, and last said: {_reason()} ({LOG})")
        time.sleep(0.2)


def _reason() -> str:
    """Why it ended, as its log has it: its last exception, else its last line."""
    lines = [line for line in LOG.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    transcript = Transcript()
    for line in lines:
        transcript.add(line)
    said = transcript.raised or (lines[-1].strip() if lines else "it printed no reason")
    return said if len(said) <= _SHOWN else f"{said[: _SHOWN - 1]}…"

"""What listens where, and whom it answers."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

pytest.importorskip("prefect")

import flows.server
from flows import past_proxies
from flows.processes import Guards
from flows.server import LOG, free_port, require_server, start_server
from pirl_core.errors import UserError
from tests import ROOT
from tests.training.open_sockets import beyond, listening

LAUNCH = "import sys; from pirl_core.stages.launch import launch; sys.exit(launch('sft', sys.argv[1:], 2))"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PROXY = "http://127.0.0.1:9"


def outer_interface() -> str:
    """One by which other machines could come in; loopback where there is none."""
    found = psutil.net_if_addrs()
    outer = [name for name, addresses in found.items() if beyond([a.address for a in addresses if a.family == 2])]
    return outer[0] if outer else "lo"


@pytest.mark.parametrize("ours", [True, False])
def test_two_ranks_of_one_machine_listen_on_loopback_only(ours: bool, root: Path, tmp_path: Path) -> None:
    """Even where the environment asks otherwise. Torch's own launcher, for comparison, is open to all."""
    told = tmp_path / "addresses.json"
    start = [*(["-c", LAUNCH] if ours else TORCHRUN), "-m", "tests.training.open_sockets", str(told)]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": outer_interface(), "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, *start], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    addresses = json.loads(told.read_text())
    assert len(addresses) >= 2
    assert bool(beyond(addresses)) is not ours, addresses


class Server:
    """Prefect's, as `make flow` and `make serve` start it."""

    def __init__(self, pid: int, api_url: str) -> None:
        self.pid = pid
        self.api_url = api_url
        self.page = api_url.removesuffix("/api")

    def ask(self, headers: dict[str, str], method: str = "GET", path: str = "/api/health", content: bytes = b"") -> Any:
        return httpx.request(method, self.page + path, content=content, headers=headers, timeout=30)

    def names(self) -> set[str]:
        """Of the flows that it knows."""
        found = self.ask({}, "POST", "/api/flows/filter", b"{}")
        return {flow["name"] for flow in found.json()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """It is found on loopback although every variable names a proxy that is not there."""
    guards = Guards()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("server"))
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        patch.setenv("PYTHONPATH", str(ROOT))
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            patch.setenv(name, PROXY)
        patch.setenv("PREFECT_API_URL", "")
        try:
            process, api_url = start_server(guards, free_port(), scheduling=False)
            yield Server(process.pid, api_url)
        finally:
            guards.end_all()


def test_the_server_listens_on_loopback_only(server: Server) -> None:
    addresses = listening(server.pid)
    assert addresses and beyond(addresses) == []


def test_the_server_answers_its_own_pages_and_programs_without_one(server: Server) -> None:
    port = server.page.rpartition(":")[2]
    assert "text/html" in server.ask({}, path="/").headers["content-type"]
    for own in (server.page, f"http://localhost:{port}"):
        assert server.ask({"Origin": own}).headers["access-control-allow-origin"] == own
        asked = {"Origin": own, "Access-Control-Request-Method": "POST"}
        assert server.ask(asked, "OPTIONS", "/api/flows/").status_code == 200
        assert server.ask({"Origin": own}, "POST", "/api/flows/", b'{"name": "page"}').status_code in (200, 201)
        with connect(f"ws://127.0.0.1:{port}/api/events/out", additional_headers={"Origin": own}, proxy=None):
            pass
    assert server.ask({}, "POST", "/api/flows/", b'{"name": "program"}').status_code == 201
    assert {"page", "program"} <= server.names()


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://{own}"},
        {"Origin": "http://{own}.elsewhere.example"},
        {"Origin": "http://elsewhere.example", "Content-Type": "text/plain"},
        {"Host": "elsewhere.example"},
        {"Host": "elsewhere.example", "Origin": "http://elsewhere.example"},
        {"Host": "{own}@elsewhere.example"},
        {"Host": ""},
    ],
)
def test_no_page_from_elsewhere_reads_or_acts(headers: dict[str, str], server: Server) -> None:
    """Neither asking first, nor by a request that a page may send without asking, nor by a name turned to loopback."""
    own = server.page.removeprefix("http://")
    sent = {name: value.format(own=own) for name, value in headers.items()}
    preflight = {**sent, "Access-Control-Request-Method": "POST"}
    for answer in (
        server.ask(sent),
        server.ask(sent, path="/"),
        server.ask(preflight, "OPTIONS", "/api/flows/"),
        # Without a content type Prefect reads JSON all the same.
        server.ask(sent, "POST", "/api/flows/", b'{"name": "intruder"}'),
    ):
        assert 400 <= answer.status_code < 500
        assert "access-control-allow-origin" not in answer.headers
        assert answer.text in ("This server answers its own pages only.\n", "Invalid HTTP request received.")
    assert "intruder" not in server.names()
    if sent.get("Host") != "":
        with pytest.raises(InvalidStatus):
            connect(f"ws://{own}/api/events/in", additional_headers=sent, proxy=None)


def test_loopback_joins_what_needs_no_proxy() -> None:
    assert past_proxies("") == "127.0.0.1,localhost,::1"
    assert past_proxies("corp.example, localhost") == "corp.example,localhost,127.0.0.1,::1"
    assert past_proxies(past_proxies("a")) == past_proxies("a")


ADDRESSES = ["", "localhost:4200/api", "4200", "ftp://127.0.0.1/api", "http://", "http://127.0.0.1:no/api", "http://[::1",
             "http://127.0.0.1:99999/api", "http://\udcff/api", f"http://{'a' * 300}.b/api"]  # fmt: skip


def refusal(api_url: str) -> str:
    with pytest.raises(UserError, match="PREFECT_API_URL = ") as refused:
        require_server(api_url)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("api_url", ADDRESSES)
def test_an_address_that_is_none(api_url: str) -> None:
    scheme = api_url.startswith(("http:", "https:")) and api_url != "http://"
    assert ("must begin with http:// or https://" in refusal(api_url)) is not scheme


def test_a_server_that_never_answers_and_one_that_is_no_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2 * flows.server._ANSWER_SECONDS < 10
    monkeypatch.setattr(flows.server, "_ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no answer within" in refusal(f"http://127.0.0.1:{silent.getsockname()[1]}/api")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        assert "no Prefect API (501 for /health)" in refusal(f"http://127.0.0.1:{other.server_port}/api")
        other.shutdown()


def test_a_proxy_that_is_none_and_a_port_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="choose another with --port"):
        start_server(Guards(), taken.getsockname()[1])
    for name, value in (("ALL_PROXY", "socks5://127.0.0.1:9"), ("HTTP_PROXY", "http://x:y")):
        with monkeypatch.context() as patch:
            # Both ways to write it: the small one counts for more, and the server of this file may have set it.
            patch.setenv(name, value)
            patch.setenv(name.lower(), value)
            with pytest.raises(UserError, match=r"ALL_PROXY: .*; correct it or unset it"):
                start_server(Guards(), free_port())


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", "it printed no reason"),
        ("\n  \n", "it printed no reason"),
        (
            "Traceback\n  x\nsqlite3.DatabaseError: file is not a database\n\n(Background at: ...)\n",
            "file is not a database",
        ),
        ("INFO: one\nKilled\n", "Killed"),
        ("ValueError: first\nOSError: last" + "x" * 1000, "OSError: last"),
        ("\x00\xff", "\x00"),
    ],
)
def test_the_reason_is_the_logs_last_exception_or_line(
    log: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    LOG.parent.mkdir()
    LOG.write_bytes(log.encode("latin-1"))
    assert said in flows.server._reason() and len(flows.server._reason()) <= 300


@pytest.mark.slow
def test_a_server_with_a_damaged_database_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "prefect.db").write_bytes(b"no database" * 1000)
    guards = Guards()
    try:
        with pytest.raises(UserError, match=r"did not start: .*file is not a database"):
            start_server(guards, free_port())
    finally:
        guards.end_all()

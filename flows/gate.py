"""``python -m flows.gate PORT``: Prefect's server on 127.0.0.1, answering this machine's programs and its own pages.

Prefect asks nobody who they are, and a browser sends what any page tells it to: a page from elsewhere could start runs.
Every request of a browser bears the Origin of its page where that matters, and a Host: both must be this server's. CORS
alone would not do, since a request may act though its page cannot read the answer; nor does a WebSocket heed it.
"""

import os
import sys
from collections.abc import Iterator

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose


class Gate:
    """ASGI: ``app`` for requests to ``hosts`` that no foreign page has made, else 403."""

    def __init__(self, app: ASGIApp, hosts: list[str]) -> None:
        self.app = app
        self.hosts = set(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._own(Headers(scope=scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(1008)(scope, receive, send)
        else:
            await PlainTextResponse("This server answers its own pages only.\n", 403)(scope, receive, send)

    def _own(self, headers: Headers) -> bool:
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        named = [*hosts, *(origin.removeprefix("http://") for origin in origins)]
        return len(hosts) == 1 and all(name.lower() in self.hosts for name in named)


def own_hosts(port: int) -> Iterator[str]:
    """What this server is called, as Host has it; with ``http://`` before, as Origin has it."""
    for name in ("127.0.0.1", "localhost"):
        yield name if port == 80 else f"{name}:{port}"


def serve(port: int) -> None:
    """Until it is told to end."""
    hosts = list(own_hosts(port))
    os.environ["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(f"http://{host}" for host in hosts)
    # The pages would look for their server at port 4200.
    os.environ["PREFECT_SERVER_UI_API_URL"] = f"http://127.0.0.1:{port}/api"

    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    settings = get_current_settings().server
    uvicorn.run(
        Gate(create_app(final=True), hosts),
        host="127.0.0.1",
        port=port,
        timeout_keep_alive=settings.api.keepalive_timeout,
        log_level=settings.logging_level.lower(),
    )


if __name__ == "__main__":
    serve(int(sys.argv[1]))

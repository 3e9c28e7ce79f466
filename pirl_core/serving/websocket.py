"""Websockets, and HTTP for health and metrics on the same port: openpi's and vla-eval's transport."""

import asyncio
import base64
import binascii
import http
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from pirl_core.serving.server import Address, Reply, Server, cannot_listen

# A simulator may take minutes to build a scene, and answers no ping meanwhile.
PING_SECONDS, PONG_SECONDS = 30, 300
INTERNAL_ERROR, GOING_AWAY = 1011, 1001


async def run(server: Server, at: Address, ready: Callable[[Address], None], stop: asyncio.Event) -> None:
    """Serve until ``stop``, then send the answers under way. ready: called with the address once it listens; port 0 is
    any free one. Raises UserError where it cannot listen."""
    # The library logs tracebacks of whatever strangers send.
    quiet = logging.getLogger("pirl.serve.websockets")
    quiet.disabled = True

    async def gate(connection: ServerConnection, request: Request) -> Response | None:
        return _gate(server, len(opened.connections), connection, request)

    async def handle(connection: ServerConnection) -> None:
        server.counters.clients += 1
        try:
            await _converse(server, connection)
        except ConnectionClosed:
            pass  # the client left, with an answer under way or without
        finally:
            server.counters.clients -= 1

    async with server.running():
        try:
            opened = await serve(
                handle,
                at.host,
                at.port,
                # Browsers name the page that asks: none of them is a robot, and no page may drive one.
                origins=[None],
                process_request=gate,
                compression=None,
                max_size=server.limits.message,
                max_queue=2,
                ping_interval=PING_SECONDS,
                ping_timeout=PONG_SECONDS,
                server_header=None,
                logger=quiet,
            )
        except OSError as error:
            raise cannot_listen(at, error.strerror or error) from None
        ready(at._replace(port=opened.sockets[0].getsockname()[1]))
        await stop.wait()
        opened.server.close()
        await server.finished()
        opened.close(code=GOING_AWAY, reason="the server stops")
        await opened.wait_closed()


def _gate(server: Server, clients: int, connection: ServerConnection, request: Request) -> Response | None:
    """What a request gets instead of a websocket, None where it gets one."""
    path = request.path.partition("?")[0]
    if path == "/healthz":
        return connection.respond(http.HTTPStatus.OK, "OK\n")
    if path == "/health":
        return _typed(connection.respond(http.HTTPStatus.OK, '{"status": "ok"}\n'), "application/json")
    if not server.trusts(_shown(request.headers.get("Authorization", ""))):
        refusal = connection.respond(http.HTTPStatus.UNAUTHORIZED, "wrong or no API key\n")
        refusal.headers["WWW-Authenticate"] = "Api-Key"
        return refusal
    if path == "/metrics":
        return _typed(connection.respond(http.HTTPStatus.OK, server.counters.text()), "text/plain; version=0.0.4")
    if clients >= server.limits.clients:
        full = f"{clients} clients are connected, and no more are let in\n"
        return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, full)
    return None


def _shown(header: str) -> str | None:
    """The key of ``Authorization: Api-Key KEY`` (openpi's client), ``Bearer KEY``, or the password of Basic, which is
    how a client that takes an address alone shows it: ws://any:KEY@host."""
    scheme, _, value = header.strip().partition(" ")
    if scheme.lower() in ("api-key", "bearer"):
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


def _typed(response: Response, kind: str) -> Response:
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = kind
    return response


async def _converse(server: Server, connection: ServerConnection) -> None:
    """One after another: an answer belongs to the message before it. Raises ConnectionClosed when the client leaves."""
    session = server.session()
    if (hello := server.wire.greeting(server.served)) is not None:
        await connection.send(hello)
    async for message in connection:
        with server.answering():
            reply = await _unless_closed(connection, server.respond(session, message))
            if reply.message is not None:
                await connection.send(reply.message)
        if reply.refused and server.wire.CLOSES:
            await connection.close(INTERNAL_ERROR, "see the message before")
        elif server.stopping:
            await connection.close(GOING_AWAY, "the server stops")


async def _unless_closed(connection: ServerConnection, answer: Coroutine[Any, Any, Reply]) -> Reply:
    """The answer. Raises ConnectionClosed once nobody is there to hear it: no forward is computed for those."""
    gone, answering = asyncio.ensure_future(connection.wait_closed()), asyncio.ensure_future(answer)
    try:
        await asyncio.wait((gone, answering), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise connection.protocol.close_exc
        return answering.result()
    finally:
        gone.cancel()
        answering.cancel()

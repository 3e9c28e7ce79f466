"""ZeroMQ: Isaac-GR00T's transport. Its clients ask and wait, so that each has one request under way."""

import asyncio
from collections.abc import Callable
from functools import partial

import zmq
import zmq.asyncio

from pirl_core.serving import groot
from pirl_core.serving.protocol import Refused
from pirl_core.serving.server import Address, Server, cannot_listen
from pirl_core.serving.session import Session, Sessions

FAREWELL_MS = 1000
"""That replies have to leave at the end."""


async def run(server: Server, at: Address, ready: Callable[[Address], None], stop: asyncio.Event) -> None:
    """Serve until ``stop``, then send the replies under way. ready: called with the address once it listens; port 0 is
    any free one. Raises UserError where it cannot listen."""
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.set(zmq.MAXMSGSIZE, server.limits.message)
        socket.set(zmq.LINGER, FAREWELL_MS)
        try:
            socket.bind(f"tcp://{at.host}:{at.port or '*'}")
        except zmq.ZMQError as error:
            raise cannot_listen(at, error.strerror) from None
        ready(at._replace(port=int(socket.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2])))
        async with server.running():
            hearing = asyncio.create_task(_hear(server, socket))
            await stop.wait()
            hearing.cancel()
            await server.finished()


async def _hear(server: Server, socket: zmq.asyncio.Socket) -> None:
    sessions: Sessions[Session] = Sessions(server.session, server.limits.clients)
    asking: dict[bytes, asyncio.Task[None]] = {}
    while True:
        client, *envelope, message = await socket.recv_multipart()
        # Of a client that does not wait for its reply nothing more is heard before that; it is no GR00T client.
        if envelope == [b""] and client not in asking:
            asking[client] = asyncio.create_task(_reply(server, socket, sessions, client, message))
            asking[client].add_done_callback(partial(lambda gone, _: asking.pop(gone), client))
            server.counters.clients = len(sessions.known)


async def _reply(
    server: Server, socket: zmq.asyncio.Socket, sessions: Sessions[Session], client: bytes, message: bytes
) -> None:
    with server.answering():
        reply = await _answer(server, sessions, client, message)
        await socket.send_multipart([client, b"", reply])


async def _answer(server: Server, sessions: Sessions[Session], client: bytes, message: bytes) -> bytes:
    try:
        found = groot.unpack(message)
    except Refused as error:
        server.counters.refusals += 1
        return groot.refusal(str(error), None)
    token = found.get("api_token")
    if not server.trusts(token if isinstance(token, str) else None):
        server.counters.refusals += 1
        return groot.refusal(groot.UNAUTHORIZED, None)
    session = sessions.of(client)
    if session is None:
        server.counters.refusals += 1
        return groot.refusal(f"{server.limits.clients} clients are connected, and no more are let in", None)
    reply = await server.respond(session, found)
    assert isinstance(reply.message, bytes)
    return reply.message

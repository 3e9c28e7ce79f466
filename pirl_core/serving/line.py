"""A websocket to somebody else's server: every wait has a deadline, and what goes wrong is told in one line."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from pirl_core.errors import UserError, first_line

MOST = 2**26
"""Bytes of an answer: actions are small, and what is larger is none of them."""


class Target(NamedTuple):
    """Where and how. url: ws:// or wss://, may hold a user and a password. key: shown as openpi's clients show it, None
    for none. seconds: that any single wait may take."""

    url: str
    key: str | None
    seconds: float

    @property
    def shown(self) -> str:
        """The address as messages tell it, without password."""
        scheme, between, rest = self.url.rpartition("://")
        return f"--server {scheme}{between}{rest.rpartition('@')[2]}"


class Line:
    """An open connection. sent: messages so far."""

    def __init__(self, socket: ClientConnection, target: Target) -> None:
        self.target = target
        self.sent = 0
        self._socket = socket

    async def send(self, message: bytes) -> None:
        """Raises UserError where the server is gone, or does not listen in time."""
        self.sent += 1
        with _told(self.target):
            async with asyncio.timeout(self.target.seconds):
                await self._socket.send(message)

    async def receive(self) -> bytes | str:
        """Raises UserError where the server is gone, or says nothing in time."""
        with _told(self.target):
            async with asyncio.timeout(self.target.seconds):
                return await self._socket.recv()

    async def close(self) -> None:
        """Says goodbye, and waits a second at most."""
        await self._socket.close()


async def dial(target: Target) -> Line:
    """Raises UserError where nobody answers, or lets nobody in."""
    headers = {} if target.key is None else {"Authorization": f"Api-Key {target.key}"}
    with _told(target):
        socket = await connect(
            target.url,
            additional_headers=headers,
            open_timeout=target.seconds,
            compression=None,
            max_size=MOST,
            # A server that computes in its event loop answers no ping meanwhile; deadlines watch it.
            ping_interval=None,
            close_timeout=1,
            proxy=None,
        )
    return Line(socket, target)


@contextmanager
def _told(target: Target) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        said = f"no answer within {target.seconds:g} s; see whether it is stuck, or raise --timeout"
        raise UserError(f"{target.shown}: {said}") from None
    except (InvalidURI, ValueError):
        raise UserError(f"{target.shown}: must be ws://HOST:PORT, or wss:// with encryption") from None
    except InvalidStatus as error:
        body = " ".join((error.response.body or b"")[:200].decode("utf-8", "replace").split())
        refused = f"{error.response.status_code} {error.response.reason_phrase}" + (f", {body}" if body else "")
        raise UserError(
            f"{target.shown}: lets nobody in ({refused}); give its key, or fewer evaluate.num_envs"
        ) from None
    except InvalidHandshake as error:
        raise UserError(f"{target.shown}: speaks no websocket ({first_line(error)}); give another address") from None
    except ConnectionClosed as error:
        reason = error.rcvd.reason if error.rcvd else "it went away"
        raise UserError(f"{target.shown}: the server hung up ({reason!r:.200}); see its own log") from None
    except OSError as error:
        raise UserError(
            f"{target.shown}: cannot be reached ({error.strerror or first_line(error)}); start it"
        ) from None

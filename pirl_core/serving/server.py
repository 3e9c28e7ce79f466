"""The common core: a message of a connection in, the message that answers it out.

A transport (``websocket``, ``zeromq``, ``grpc``) moves bytes, knows who is who, and calls ``Server.respond``.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pirl_core.errors import UserError
from pirl_core.serving.batcher import Batcher
from pirl_core.serving.counters import Counters
from pirl_core.serving.protocol import Act, Begin, Message, Refused, Request, Served, Timing, Wire
from pirl_core.serving.session import Session

log = logging.getLogger("pirl.serve")


class Limits(NamedTuple):
    """message: bytes of one. clients: connected at once. seconds: that an answer may take, and that the end waits for
    answers under way. batch: rows of a forward."""

    message: int
    clients: int
    seconds: float
    batch: int


class Address(NamedTuple):
    host: str
    port: int


class Reply(NamedTuple):
    """message: None for no answer. refused: whether it is an error."""

    message: Message | None
    refused: bool


class Server:
    """What is served, by which protocol, within which limits. key: that clients must show; None for none."""

    def __init__(self, served: Served, wire: Wire, limits: Limits, seed: int, key: str | None) -> None:
        self.served = served
        self.wire = wire
        self.limits = limits
        self.seed = seed
        self.key = key
        self.counters = Counters()
        self.batcher = Batcher(served.policy.player, limits.batch, self.counters)
        self.busy = 0
        self.stopping = False

    def session(self) -> Session:
        """Of a new connection."""
        self.counters.connections += 1
        return Session(self.seed)

    def trusts(self, shown: str | None) -> bool:
        """Whether a client that shows this key is let in."""
        return self.key is None or (shown is not None and hmac.compare_digest(_raw(shown), _raw(self.key)))

    async def respond(self, session: Session, message: Any) -> Reply:
        """As ``perform``, of a message as it came."""
        return await self.perform(session, partial(self.wire.parse, message, self.served))

    async def perform(self, session: Session, parse: Callable[[], Request]) -> Reply:
        """Never raises but when it is cancelled: what goes wrong is told in the protocol's form. parse: gives the
        request, or raises Refused."""
        begin = time.perf_counter()
        tag: Any = None
        try:
            request = parse()
            if not isinstance(request, Act):
                if isinstance(request, Begin):
                    session.begin(request.seed)
                return Reply(request.reply, False)
            tag = request.tag
            actions, forward = await self.act(session, request)
            timing = Timing(time.perf_counter() - begin, forward)
            self.counters.answers += 1
            self.counters.waited += timing.server
            return Reply(self.wire.answer(actions, request, self.served, timing), False)
        except Refused as error:
            return self._refused(str(error), error.tag)
        except TimeoutError:
            return self._refused(f"no answer within {self.limits.seconds:g} s; ask again", tag)
        except Exception:
            log.exception("a request failed")
            return self._refused("the server failed at it; its own log says why", tag)

    async def act(self, session: Session, request: Act) -> tuple[np.ndarray, float | None]:
        """Actions (R, A), or the next one (A,), and the seconds of the forward for it, if any. Raises TimeoutError."""
        if self.wire.SINGLE and session.waiting:
            return session.waiting.popleft(), None
        key = session.key(request.seed, request.decision)
        async with asyncio.timeout(self.limits.seconds):
            chunk = await self.batcher.ask(request.observation, key)
        session.answered()
        if not self.wire.SINGLE:
            return chunk
        session.waiting.extend(chunk.actions)
        return session.waiting.popleft(), chunk.seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Forwards are computed within the block."""
        forwards = asyncio.create_task(self.batcher.run())
        try:
            yield
        finally:
            forwards.cancel()
            with suppress(asyncio.CancelledError):
                await forwards

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Around a message and the sending of its answer, which the end waits for."""
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1

    async def finished(self) -> None:
        """Once no answer is under way, or after ``limits.seconds``. From here on a transport takes no other message."""
        self.stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self.limits.seconds):
                while self.busy:
                    await asyncio.sleep(0.01)

    def _refused(self, text: str, tag: Any) -> Reply:
        self.counters.refusals += 1
        return Reply(self.wire.refusal(" ".join(text.split())[:500], tag), True)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def cannot_listen(at: Address, why: object) -> UserError:
    return UserError(f"--host {at.host} --port {at.port}: cannot listen there ({why}); give another")

"""gRPC: LeRobot's transport. Four calls of its service ``transport.AsyncInference``, with messages made from their
description here instead of generated code."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pirl_core.errors import UserError
from pirl_core.serving import lerobot
from pirl_core.serving.protocol import Act, Refused
from pirl_core.serving.server import Address, Server, cannot_listen
from pirl_core.serving.session import Session, Sessions

SERVICE = "transport.AsyncInference"
WAIT_SECONDS = 2.0
"""That a call for actions waits for an observation, before it is told that there are none."""
CHUNK = 4 * 2**20
"""Bytes of one message of a stream; the client's pieces have half of that."""


def _messages() -> dict[str, Any]:
    """The service's messages, by name."""
    file = descriptor_pb2.FileDescriptorProto(name="pirl/async_inference.proto", package="transport", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    states = ("UNKNOWN", "BEGIN", "MIDDLE", "END")
    values = [
        descriptor_pb2.EnumValueDescriptorProto(name=f"TRANSFER_{state}", number=number)
        for number, state in enumerate(states)
    ]
    file.enum_type.add(name="TransferState", value=values)
    data = {"name": "data", "type": field.TYPE_BYTES, "label": field.LABEL_OPTIONAL}
    state = {"name": "transfer_state", "type": field.TYPE_ENUM, "type_name": ".transport.TransferState"}
    file.message_type.add(name="Empty")
    for name in ("PolicySetup", "Actions"):
        file.message_type.add(name=name, field=[field(number=1, **data)])
    parts = [field(number=1, label=field.LABEL_OPTIONAL, **state), field(number=2, **data)]
    file.message_type.add(name="Observation", field=parts)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [message.name for message in file.message_type]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"transport.{name}")) for name in names}


MESSAGES = _messages()
BEGIN, END = 1, 3


@dataclass
class _Robot:
    """A client. waiting: its latest observation that is worth an answer. answered: timesteps that had one."""

    session: Session
    setup: lerobot.Setup | None = None
    waiting: Act | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    answered: set[int] = field(default_factory=set)


class _Calls:
    """Each raises Refused, with a gRPC status as its tag where it is not the message's fault."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.robots: Sessions[_Robot] = Sessions(lambda: _Robot(server.session()), server.limits.clients)

    async def ready(self, robot: _Robot, request: Any) -> Any:
        """A new episode begins."""
        robot.session.begin()
        robot.waiting = None
        robot.answered.clear()
        return MESSAGES["Empty"]()

    async def instructions(self, robot: _Robot, request: Any) -> Any:
        robot.setup = lerobot.setup_of(request.data)
        return MESSAGES["Empty"]()

    async def observations(self, robot: _Robot, request: AsyncIterator[Any]) -> Any:
        """The last that is worth it waits: whose robot has nothing to execute, or whose step had no answer yet."""
        payload = await self._joined(request)
        if robot.setup is None:
            raise Refused("SendPolicyInstructions comes first", grpc.StatusCode.FAILED_PRECONDITION)
        act = lerobot.parse(lerobot.Sent(payload, robot.setup), self.server.served)
        if act.tag.must_go or act.tag.timestep not in robot.answered:
            robot.waiting = act
            robot.arrived.set()
        return MESSAGES["Empty"]()

    async def actions(self, robot: _Robot, request: Any) -> Any:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await robot.arrived.wait()
        except TimeoutError:
            return MESSAGES["Actions"]()
        robot.arrived.clear()
        act, robot.waiting = robot.waiting, None
        if act is None:
            return MESSAGES["Actions"]()
        robot.answered.add(act.tag.timestep)
        reply = await self.server.perform(robot.session, lambda: act)
        if reply.refused:
            raise Refused(str(reply.message), grpc.StatusCode.INTERNAL)
        return MESSAGES["Actions"](data=reply.message)

    def told(self, call: Callable[[_Robot, Any], Any]) -> Callable[[Any, Any], Any]:
        """The call as gRPC makes it, with refusals as its own statuses."""

        async def answer(request: Any, context: Any) -> Any:
            try:
                robot = self.robots.of(context.peer())
                self.server.counters.clients = len(self.robots.known)
                if robot is None:
                    full = f"{self.server.limits.clients} clients are connected, and no more are let in"
                    raise Refused(full, grpc.StatusCode.RESOURCE_EXHAUSTED)
                return await call(robot, request)
            except Refused as error:
                # ``perform`` has counted its own.
                self.server.counters.refusals += error.tag is not grpc.StatusCode.INTERNAL
                await context.abort(error.tag or grpc.StatusCode.INVALID_ARGUMENT, str(error))

        return answer

    async def _joined(self, pieces: AsyncIterator[Any]) -> bytes:
        """The payload that comes in pieces, the last of them marked."""
        whole = bytearray()
        try:
            async with asyncio.timeout(self.server.limits.seconds):
                async for piece in pieces:
                    if piece.transfer_state == BEGIN:
                        whole.clear()
                    whole += piece.data
                    if len(whole) > self.server.limits.message:
                        most = f"an observation of more than {self.server.limits.message} bytes"
                        raise Refused(most, grpc.StatusCode.RESOURCE_EXHAUSTED)
                    if piece.transfer_state == END:
                        return bytes(whole)
        except TimeoutError:
            late = "the observation did not arrive in time"
            raise Refused(late, grpc.StatusCode.DEADLINE_EXCEEDED) from None
        raise Refused("the observation's last piece is missing")


async def run(server: Server, at: Address, ready: Callable[[Address], None], stop: asyncio.Event) -> None:
    """Serve until ``stop``, then send the answers under way. ready: called with the address once it listens; port 0 is
    any free one. Raises UserError where it cannot listen, and for an API key, which these clients cannot show."""
    if server.key is not None:
        raise UserError("--protocol lerobot: its clients can show no API key; unset it, and listen at 127.0.0.1")
    calls = _Calls(server)
    options = [("grpc.max_receive_message_length", CHUNK), ("grpc.so_reuseport", 0)]
    listening = grpc.aio.server(options=options, maximum_concurrent_rpcs=4 * server.limits.clients)
    handlers = {
        "Ready": _unary(calls.told(calls.ready), "Empty"),
        "SendPolicyInstructions": _unary(calls.told(calls.instructions), "PolicySetup"),
        "GetActions": _unary(calls.told(calls.actions), "Empty"),
        "SendObservations": grpc.stream_unary_rpc_method_handler(
            calls.told(calls.observations), MESSAGES["Observation"].FromString, _bytes
        ),
    }
    listening.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    try:
        port = listening.add_insecure_port(f"{at.host}:{at.port}")
    except RuntimeError:
        raise cannot_listen(at, "no address of this machine, or in use") from None
    async with server.running():
        await listening.start()
        ready(at._replace(port=port))
        await stop.wait()
        await listening.stop(server.limits.seconds)


def _unary(call: Callable[[Any, Any], Any], takes: str) -> Any:
    return grpc.unary_unary_rpc_method_handler(call, MESSAGES[takes].FromString, _bytes)


def _bytes(message: Any) -> bytes:
    packed: bytes = message.SerializeToString()
    return packed

"""openpi's protocol from the client's side (``openpi`` is the server's): the server speaks first, then observations and
chunks take turns. It has no episodes. Start noise is told in keys of the observation, to a server that knows them."""

from collections.abc import Callable, Mapping
from typing import Any

from pirl_core.errors import UserError
from pirl_core.serving import packing
from pirl_core.serving.agreement import Greeting, about_of
from pirl_core.serving.line import Line
from pirl_core.serving.remote import Key


async def greet(line: Line) -> Greeting:
    """Raises UserError for what is no greeting."""
    found = _map(await line.receive(), line)
    about = about_of(found, line.target)
    return Greeting(about.policy if about else "", about, {})


async def begin(line: Line, task: Mapping[str, Any]) -> None:
    """Nothing is said of it."""


async def ask(line: Line, content: dict[str, Any], key: Key | None) -> object:
    """The answer's actions, as they are. Raises UserError for an answer without."""
    noise = {} if key is None else {"seed": key[0], "decision": key[1]}
    await line.send(packing.pack(content | noise, packing.with_bytes_keys))
    answer = _map(await line.receive(), line)
    if "actions" not in answer:
        has = ", ".join(sorted(map(str, answer))[:8]) or "nothing"
        raise UserError(
            f"{line.target.shown}: answers without 'actions' (it has {has:.200}); it is no server of openpi's"
        )
    return answer["actions"]


def _map(message: bytes | str, line: Line) -> dict[Any, Any]:
    return read_map(message, packing.bytes_keys, line)


def read_map(message: bytes | str, hook: Callable[[dict[Any, Any]], Any], line: Line) -> dict[Any, Any]:
    """Raises UserError for an error in words, of which a traceback's last line says what it is, and for anything that
    is no map."""
    if isinstance(message, str):
        said = [text for text in message.splitlines() if text.strip()] or [""]
        raise UserError(f"{line.target.shown}: the server says: {said[-1].strip():.300}")
    try:
        found = packing.unpack(message, hook)
    except ValueError as error:
        raise UserError(f"{line.target.shown}: not what --protocol says ({error}); give another") from None
    if not isinstance(found, dict):
        raise UserError(f"{line.target.shown}: not what --protocol says ({type(found).__name__}, no map); give another")
    return found

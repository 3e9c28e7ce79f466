"""vla-eval's protocol, version 1, from the client's side (``vla_eval`` is the server's): hello and hello, then for each
episode its start, observations that are answered by actions of the same seq, and its end."""

import time
from collections.abc import Mapping
from typing import Any

from pirl_core.errors import UserError
from pirl_core.serving import packing
from pirl_core.serving.agreement import Greeting, about_of
from pirl_core.serving.ask_openpi import read_map
from pirl_core.serving.line import Line
from pirl_core.serving.remote import Key

VERSION = 1


async def greet(line: Line) -> Greeting:
    """Raises UserError for a server of another version."""
    payload = await _answered(line, "hello", {"harness_version": "pirl", "protocol_version": VERSION}, "hello")
    version = payload.get("protocol_version")
    if version != VERSION:
        raise UserError(f"{line.target.shown}: speaks version {version!r:.20} of vla_eval; {VERSION} is needed")
    ours, spec = payload.get("pirl"), payload.get("action_spec")
    about = about_of(ours if isinstance(ours, dict) else {}, line.target)
    return Greeting(str(payload.get("model_server", "")), about, spec if isinstance(spec, dict) else {})


async def begin(line: Line, task: Mapping[str, Any]) -> None:
    """Another episode; a server's chunks and memory of the last one end here."""
    if line.sent > 1:
        await line.send(_packed(line, "episode_end", {"metrics": {}, "steps": 0, "elapsed_sec": 0.0}))
    await line.send(_packed(line, "episode_start", {"task": dict(task)}))


async def ask(line: Line, content: dict[str, Any], key: Key | None) -> object:
    """The answer's actions, as they are; the key's seed was told with the episode's start."""
    payload = await _answered(line, "observation", content, "action")
    if "actions" not in payload:
        has = ", ".join(sorted(map(str, payload))[:8]) or "nothing"
        raise UserError(f"{line.target.shown}: an action without 'actions' (it has {has:.200})")
    return payload["actions"]


async def _answered(line: Line, kind: str, payload: dict[str, Any], wanted: str) -> dict[str, Any]:
    """Payload of the answer, which must be ``wanted`` and have the same seq."""
    message = _packed(line, kind, payload)
    seq = line.sent
    await line.send(message)
    found = read_map(await line.receive(), packing.text_keys, line)
    content = found.get("payload")
    if found.get("type") == "error" and isinstance(content, dict):
        said = " ".join(str(content.get("error", "")).split())
        raise UserError(f"{line.target.shown}: the server says: {said:.300}")
    if found.get("type") != wanted or not isinstance(content, dict) or found.get("seq") != seq:
        said = f"{found.get('type')!r:.40} with seq {found.get('seq')!r:.20} in answer to {kind} with seq {seq}"
        raise UserError(f"{line.target.shown}: not what --protocol says ({said}); give another")
    return content


def _packed(line: Line, kind: str, payload: dict[str, Any]) -> bytes:
    content = {"type": kind, "payload": payload, "seq": line.sent, "timestamp": time.time()}
    return packing.pack(content, packing.with_text_keys)

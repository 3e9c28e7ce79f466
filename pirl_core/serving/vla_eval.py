"""vla-eval's protocol, version 1: msgpack maps of type, payload, seq and timestamp (vla_eval 0.8.0, ``protocol``).

One action an observation: the rest of a chunk waits in the connection's session. A ``seed`` of the episode's task names
the start noise, as it does in an evaluation.
"""

import time
from typing import Any

import numpy as np

from pirl_core.envs.conventions import conventions_of
from pirl_core.serving import packing
from pirl_core.serving.keys import read_observation
from pirl_core.serving.protocol import Act, Begin, Message, Refused, Request, Say, Served, Timing, about, whole_number

PORT = 8000
SINGLE = True
CLOSES = False
VERSION = 1
# What vla-eval compares with its benchmark's, of LIBERO.
STATE = {"name": "state", "dims": 8, "format": "eef_pos3_axisangle3_gripper2"}
LANGUAGE = {"name": "language", "dims": 0, "format": "language"}
IMAGE = {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"}


def parse(message: Message, served: Served) -> Request:
    """Raises Refused, with the message's seq as its tag where it has one."""
    seq = 0
    try:
        if isinstance(message, str):
            raise ValueError("a text frame; a message is a binary one, in msgpack")
        found = packing.unpack(message, packing.text_keys)
        if (
            not isinstance(found, dict)
            or type(found.get("seq")) is not int
            or not isinstance(found.get("payload"), dict)
        ):
            raise ValueError("a message is a map with type, payload (a map), seq (a whole number) and timestamp")
        seq, kind, payload = found["seq"], found.get("type"), found["payload"]
        if kind == "hello":
            return _hello(payload, seq, served)
        if kind == "episode_start":
            task = payload.get("task")
            return Begin(whole_number(task, "seed") if isinstance(task, dict) else None)
        if kind == "observation":
            return Act(read_observation(payload, served.keys, served.policy.interface), tag=seq)
        if kind in ("episode_end", "error"):
            return Say()
        raise ValueError(f"type {kind!r:.40}: a client sends hello, episode_start, observation or episode_end")
    except ValueError as error:
        raise Refused(str(error), seq) from None


def _hello(payload: dict[str, Any], seq: int, served: Served) -> Say:
    if payload.get("protocol_version") != VERSION:
        raise ValueError(f"protocol_version {payload.get('protocol_version')!r:.40}: this server speaks {VERSION}")
    content = {
        "harness_version": "pirl",
        "protocol_version": VERSION,
        "model_server": served.name,
        "capabilities": {},
        "observation_params": {"send_wrist_image": "eye_in_hand" in served.keys.cameras, "send_state": True},
        "pirl": about(served),
    }
    benchmark = served.policy.interface.benchmark
    if conventions := conventions_of(benchmark) if benchmark else None:
        content["action_spec"] = {part.name: part.spec() for part in conventions.action}
    if benchmark == "libero":
        names = {"agentview": "agentview", "eye_in_hand": "wrist"}
        seen = {names[camera]: IMAGE for camera in served.keys.cameras if camera in names}
        content["observation_spec"] = {**seen, "state": STATE, "language": LANGUAGE}
    return Say(_packed("hello", content, seq))


def answer(actions: np.ndarray, request: Act, served: Served, timing: Timing) -> bytes:
    """actions: (A,)."""
    return _packed("action", {"actions": actions}, request.tag)


def refusal(text: str, tag: Any) -> bytes:
    return _packed("error", {"error": f"observation_failed: {text}"}, tag or 0)


def greeting(served: Served) -> None:
    return None


def _packed(kind: str, payload: dict[str, Any], seq: int) -> bytes:
    content = {"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}
    return packing.pack(content, packing.with_text_keys)

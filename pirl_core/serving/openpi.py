"""openpi's protocol: one msgpack map of an observation a frame, one of actions back (openpi_client 0.1.2).

The server speaks first and tells what it serves. Of the observation's own keys besides, ``seed`` and ``decision`` may
name the start noise, as they do in an evaluation.
"""

from typing import Any

import numpy as np

from pirl_core.serving import packing
from pirl_core.serving.keys import read_observation
from pirl_core.serving.protocol import Act, Message, Refused, Served, Timing, about, whole_number

PORT = 8000
SINGLE = False
# The client takes any text for an error, and the reference server hangs up after it.
CLOSES = True


def parse(message: Message, served: Served) -> Act:
    """Raises Refused."""
    if isinstance(message, str):
        raise Refused("a text frame; an observation is a binary one, in msgpack")
    try:
        found = packing.unpack(message, packing.bytes_keys)
        if not isinstance(found, dict):
            raise ValueError(f"{type(found).__name__} instead of a map of an observation")
        observation = read_observation(found, served.keys, served.policy.interface)
        return Act(observation, whole_number(found, "seed"), whole_number(found, "decision"))
    except ValueError as error:
        raise Refused(str(error)) from None


def answer(actions: np.ndarray, request: Act, served: Served, timing: Timing) -> bytes:
    """actions: (R, A)."""
    content = {
        "actions": actions,
        "policy_timing": {"infer_ms": 1000 * (timing.forward or 0)},
        "server_timing": {"infer_ms": 1000 * timing.server},
    }
    return packing.pack(content, packing.with_bytes_keys)


def refusal(text: str, tag: Any) -> str:
    return text


def greeting(served: Served) -> bytes:
    return packing.pack(about(served), packing.with_bytes_keys)

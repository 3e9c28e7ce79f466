"""Isaac-GR00T's protocol: an endpoint and its data in msgpack, one reply each (gr00t/policy/server_client.py).

Two forms of observation are known by their keys. N1.6 and N1.7 nest them ({"observation": {"video": …, "state": …,
"language": …}}) with axes of environments and of time in front, and are answered by a list of action and info; N1.5 has
flat names ("video.front") with an axis of time, and is answered by a map of "action.…". Each number of state and action
is a key of its own, by the policy's names; ``get_modality_config`` tells them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pirl_core.serving import packing
from pirl_core.serving.keys import read_observation
from pirl_core.serving.protocol import Act, Begin, Refused, Request, Say, Served, Timing, whole_number

PORT = 5555
SINGLE = False
CLOSES = False
UNAUTHORIZED = "Unauthorized: Invalid API token"


def unpack(message: bytes) -> dict[str, Any]:
    """Raises Refused for what is no request at all."""
    try:
        found = packing.unpack(message, packing.npy_maps)
    except ValueError as error:
        raise Refused(str(error)) from None
    if not isinstance(found, dict):
        raise Refused(f"{type(found).__name__} instead of a map with an endpoint and its data")
    return found


def parse(message: dict[str, Any], served: Served) -> Request:
    """message: from ``unpack``. Raises Refused."""
    endpoint, data = message.get("endpoint", "get_action"), message.get("data") or {}
    try:
        if not isinstance(data, dict):
            raise ValueError(f"data: {type(data).__name__} instead of a map")
        options = data.get("options") or {}
        if not isinstance(options, dict):
            raise ValueError(f"options: {type(options).__name__} instead of a map")
        if endpoint == "ping":
            return Say(_packed({"status": "ok", "message": "Server is running"}))
        if endpoint == "get_modality_config":
            return Say(_packed(_modalities(served)))
        if endpoint == "reset":
            return Begin(whole_number(options, "seed"), _packed({}))
        if endpoint == "get_action":
            nested = "observation" in data
            seen = _of_environment(data["observation"]) if nested else _of_names(data)
            observation = read_observation(seen, served.keys, served.policy.interface)
            return Act(observation, whole_number(options, "seed"), whole_number(options, "decision"), nested)
        if endpoint == "kill":
            raise ValueError("kill: this server is stopped where it was started")
        raise ValueError(f"endpoint {endpoint!r:.40}: there are ping, get_action, reset and get_modality_config")
    except ValueError as error:
        raise Refused(str(error)) from None


def _of_environment(observation: object) -> dict[str, Any]:
    """The one environment's latest frame, numbers and sentence."""
    if not isinstance(observation, dict):
        raise ValueError(f"observation: {type(observation).__name__} instead of a map of video, state and language")
    return {
        modality: {key: _latest(_only(value, key), key) for key, value in parts.items()}
        for modality, parts in observation.items()
        if isinstance(parts, Mapping)
    }


def _of_names(data: dict[str, Any]) -> dict[str, Any]:
    """The same of flat names; the first annotation is the task."""
    found: dict[str, dict[str, Any]] = {"video": {}, "state": {}, "language": {}}
    for name, value in data.items():
        modality, _, key = str(name).partition(".")
        if modality in ("video", "state"):
            found[modality][key] = _latest(value, name)
        elif modality == "annotation":
            found["language"].setdefault("task", _latest(value, name))
    return found


def _only(value: Any, name: str) -> Any:
    if not isinstance(value, np.ndarray | list | tuple) or np.ndim(value) < 1 or len(value) != 1:
        raise ValueError(f"{name}: the axis of environments must have one; a client asks for one environment")
    return value[0]


def _latest(value: Any, name: str) -> Any:
    if not isinstance(value, np.ndarray | list | tuple) or np.ndim(value) < 1 or not len(value):
        raise ValueError(f"{name}: an axis of time is needed, with a frame or more")
    return value[-1]


def _modalities(served: Served) -> dict[str, Any]:
    """Of N1.6 and N1.7."""
    interface, keys = served.policy.interface, served.keys
    steps = list(range(served.policy.flow.replan))
    parts = {
        "video": ([0], [place.partition("/")[2] for place in keys.cameras.values()]),
        "state": ([0], [place.partition("/")[2] for place in keys.state]),
        "action": (steps, interface.action),
        "language": ([0], [keys.prompt.partition("/")[2]]),
    }
    return {
        name: {"__ModalityConfig_class__": True, "as_json": {"delta_indices": when, "modality_keys": names}}
        for name, (when, names) in parts.items()
    }


def answer(actions: np.ndarray, request: Act, served: Served, timing: Timing) -> bytes:
    """actions: (R, A)."""
    columns = dict(zip(served.policy.interface.action, actions.astype(np.float32).T[..., None], strict=True))
    if request.tag:
        return _packed([{name: column[None] for name, column in columns.items()}, {}])
    return _packed({f"action.{name}": column for name, column in columns.items()})


def refusal(text: str, tag: Any) -> bytes:
    return _packed({"error": text})


def greeting(served: Served) -> None:
    return None


def _packed(content: Any) -> bytes:
    return packing.pack(content, packing.with_npy)

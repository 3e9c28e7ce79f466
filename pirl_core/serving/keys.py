"""Where a client's message has what the policy reads: by preset, or as ``--map`` says.

A place is a key of the message's map, or keys one below another with slashes between: openpi's LIBERO clients have a
key "observation/image", its ALOHA clients a map "images" with a key "cam_high".
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pirl_core.errors import UserError
from pirl_core.policy.interface import Interface
from pirl_core.serving.policy import observation_of
from pirl_core.sft.augment import WRIST_CAMERAS
from pirl_core.types import Observation

STATE, PROMPT = "state", "prompt"


class Keys(NamedTuple):
    """cameras: the policy's name → place of its image. state: places whose numbers follow one another. prompt: the
    instruction's."""

    cameras: Mapping[str, str]
    state: tuple[str, ...]
    prompt: str


ALOHA = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
PRESETS: dict[str, dict[str, Keys]] = {
    # As openpi's policies for these robots read them (src/openpi/policies).
    "openpi": {
        "libero": Keys(
            {"agentview": "observation/image", "eye_in_hand": "observation/wrist_image"},
            ("observation/state",),
            "prompt",
        ),
        "droid": Keys(
            {name: f"observation/{name}" for name in ("exterior_image_1_left", "wrist_image_left")},
            ("observation/joint_position", "observation/gripper_position"),
            "prompt",
        ),
        "aloha": Keys({name: f"images/{name}" for name in ALOHA}, ("state",), "prompt"),
    },
    # As vla-eval's benchmarks send them (vla_eval/benchmarks).
    "vla_eval": {
        "libero": Keys(
            {"agentview": "images/agentview", "eye_in_hand": "images/wrist"}, ("states",), "task_description"
        ),
        "aloha": Keys({name: f"images/{name}" for name in ALOHA}, ("states",), "task_description"),
    },
}
NUMBERS = {"droid": (8, "7 joints, 1 gripper"), "aloha": (14, "6 joints and a gripper of each arm")}
"""Of a robot that has one body alone: how many numbers its client sends as the state, and takes as an action."""
# Of a protocol: places of a camera, of the state (of each number, where it has braces) and of the instruction, where
# no preset says otherwise.
PLAIN = {
    "openpi": ("observation/{}", "observation/state", "prompt"),
    "vla_eval": ("images/{}", "states", "task_description"),
    "groot": ("video/{}", "state/{}", "language/task"),
    "lerobot": ("{}", "observation.state", "task"),
}


def keys_for(interface: Interface, protocol: str, preset: str | None, pairs: Sequence[str]) -> Keys:
    """preset: None for that of the policy's benchmark, where there is one. pairs: ``ours=theirs`` each, theirs several
    places with commas between for the state.

    A camera has the preset's place of its name; one of another name that of the only camera there that is left, of
    those on the wrist or of the others as it is itself.

    Raises UserError for an unknown preset, an unknown name of ours, a camera that nothing gives a place, and a preset
    of a robot that has not as many numbers as the policy, unless the state has a place of its own.
    """
    known = PRESETS.get(protocol, {})
    if preset is not None and preset not in known:
        has = ", ".join(known) or "none"
        raise UserError(f"--keys {preset}: protocol {protocol} has {has}; choose of these, or use --map")
    camera, state, prompt = PLAIN[protocol]
    numbers = dict.fromkeys(state.format(name) for name in interface.state)
    plain = Keys({name: camera.format(name) for name in interface.cameras}, tuple(numbers), prompt)
    chosen = known[preset] if preset is not None else known.get(interface.benchmark, plain)
    mapped = _pairs(pairs, interface)
    if preset in NUMBERS and STATE not in mapped:
        _require_numbers(preset, interface)
    cameras = _cameras(chosen.cameras, interface.cameras)
    places = {**cameras, STATE: ",".join(chosen.state), PROMPT: chosen.prompt, **mapped}
    lacking = [name for name in interface.cameras if name not in places]
    if lacking:
        raise UserError(
            f"--keys {preset or interface.benchmark}: gives no place for camera {lacking[0]} of the policy, only for "
            f"{', '.join(chosen.cameras)}; add --map {lacking[0]}=PLACE"
        )
    return Keys({name: places[name] for name in interface.cameras}, tuple(places[STATE].split(",")), places[PROMPT])


def _cameras(known: Mapping[str, str], ours: Sequence[str]) -> dict[str, str]:
    """Ours that the preset gives a place."""
    places = {name: known[name] for name in ours if name in known}
    for on_wrist in (False, True):
        asked = [name for name in ours if name not in known and _on_wrist(name) == on_wrist]
        left = [name for name in known if name not in ours and _on_wrist(name) == on_wrist]
        if len(asked) == len(left) == 1:
            places[asked[0]] = known[left[0]]
    return places


def _on_wrist(camera: str) -> bool:
    return camera in WRIST_CAMERAS or "wrist" in camera


def _require_numbers(preset: str, interface: Interface) -> None:
    count, which = NUMBERS[preset]
    for verb, names in (("reads", interface.state), ("moves", interface.action)):
        if len(names) != count:
            raise UserError(
                f"--keys {preset}: that robot has {count} numbers ({which}), the policy {verb} {len(names)} "
                f"({', '.join(names)[:120]}); serve one of that robot, or say where the state is: --map state=PLACE"
            )


def _pairs(pairs: Sequence[str], interface: Interface) -> dict[str, str]:
    ours = [*interface.cameras, STATE, PROMPT]
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, place = pair.partition("=")
        if not equals or not place or name not in ours or name in found:
            raise UserError(f"--map {pair}: must be NAME=PLACE, with NAME one of {', '.join(ours)}, each once")
        found[name] = place
    return found


def read_observation(message: Mapping[Any, Any], keys: Keys, interface: Interface) -> Observation:
    """One row. Raises ValueError that names the place where something is missing or wrong."""
    images = {camera: find(message, place) for camera, place in keys.cameras.items()}
    parts = [_flat(find(message, place), place) for place in keys.state]
    return observation_of(interface, images, np.concatenate(parts), find(message, keys.prompt))


def find(message: Mapping[Any, Any], place: str) -> Any:
    """What stands there. Raises ValueError where nothing does."""
    if place in message:
        return message[place]
    found: Any = message
    for key in place.split("/"):
        if not isinstance(found, Mapping) or key not in found:
            known = ", ".join(sorted(str(name)[:40] for name in message)[:12])
            raise ValueError(f"nothing at {place}; the message has {known or 'no keys'}")
        found = found[key]
    return found


def put(message: dict[str, Any], place: str, value: Any) -> None:
    """Where ``find`` looks. A place that begins with ``observation/`` is one key, as openpi's policies have it; with
    other slashes it goes one map deeper."""
    head, slash, rest = place.partition("/")
    if not slash or head == "observation":
        message[place] = value
    else:
        put(message.setdefault(head, {}), rest, value)


def _flat(value: Any, place: str) -> np.ndarray:
    try:
        numbers = np.asarray(value)
    except ValueError:
        numbers = np.asarray(None)
    if numbers.dtype.kind not in "biuf":
        raise ValueError(f"{place}: numbers are needed, not {value!r:.60}")
    return numbers.reshape(-1)

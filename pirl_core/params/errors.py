"""What is wrong with params.yaml, in one line: the dotted key, its value, the remedy."""

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from pirl_core.params.merging import depth

Layer = tuple[tuple[str | int, ...], dict[str, Any] | None]
"""Where values stand in the file, and the values."""


def unknown_keys_first(error: ValidationError) -> list[Any]:
    """A misspelt key is also a missing key: show the half that can say 'did you mean'."""
    return sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")


def describe(error: Any, layers: Sequence[Layer], model: type[BaseModel]) -> str:
    """One pydantic error as ``dotted.key = value: what to do``, placed in the layer that set the key."""
    location = tuple(part for part in error["loc"] if part != "[key]")
    depths = [depth(model, values or {}, location) for _, values in layers]
    owners = [
        place for (place, values), deep in zip(layers, depths, strict=True) if values is None or 0 < deep == max(depths)
    ]
    filled = [place for place, values in layers if values]
    place = (owners or (filled if not location else [layers[0][0]]))[-1]
    key = ".".join(str(part) for part in (*place, *location))
    kind, value, message = error["type"], error["input"], error["msg"]
    if kind == "missing":
        return f"{key}: missing; add this key (pirl_core/params/presets/base.yaml has it with its meaning)"
    if kind == "value_error":
        return f"{key}: {message.removeprefix('Value error, ')}".removeprefix(": ")
    if kind == "extra_forbidden":
        message = unknown(str(location[-1]), _fields_at(model, location[:-1]), "unknown key")
    elif kind == "string_pattern_mismatch":
        message = "a name starts with a small letter and goes on with small letters, digits and _"
    else:
        message = message.replace("Input should be", "must be").replace("should have", "must have")
        message = message.replace("a valid boolean", "true or false").replace("valid dictionary", "mapping of keys")
    shown = json.dumps(value, ensure_ascii=False, default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"{key} = {shown}: {message}"


def _fields_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Names that the section at ``location`` knows."""
    for part in location:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else model
        candidates = [inner, *getattr(inner, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return list(model.model_fields)


def unknown(name: str, known: Iterable[str], what: str = "") -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
    return f"{what or f'unknown name {name!r}'}; {hint}"

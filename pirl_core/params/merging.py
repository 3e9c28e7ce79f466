"""How an override changes what is below it: a section key by key, any other value whole."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel


def section_at(model: type[BaseModel], key: Any) -> type[BaseModel] | None:
    """The section that a key of ``model`` always is, such as ``sac`` of rl."""
    field = model.model_fields.get(str(key))
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def merged(model: type[BaseModel], below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with what ``above`` changes; both hold values of ``model``, checked or not."""
    found = dict(below)
    for key, value in above.items():
        inner, before = section_at(model, key), found.get(key)
        if inner and isinstance(before, dict) and isinstance(value, dict):
            found[key] = merged(inner, before, value)
        else:
            found[key] = value
    return found


def depth(model: type[BaseModel], values: Mapping[str, Any], location: Sequence[Any]) -> int:
    """How many parts of a location these values set, as ``merged`` reads them."""
    if not location or location[0] not in values:
        return 0
    inner, value = section_at(model, location[0]), values[location[0]]
    return 1 + (depth(inner, value, location[1:]) if inner and isinstance(value, dict) else 0)

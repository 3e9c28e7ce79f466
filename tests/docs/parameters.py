"""Every parameter as the typed sections, the presets' base and the laptop preset have it: ``python -m
tests.docs.parameters`` writes the tables between the marks of docs/parameters.md."""

import re
import types
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pirl_core import named
from pirl_core.params.preset import BASE, preset_values
from pirl_core.params.sections import Params
from pirl_core.params.sections.env import known_benchmark
from pirl_core.params.sections.policy import known_family
from pirl_core.params.sections.rl import known_rule
from pirl_core.report.pages import replaced
from tests import ROOT

PAGE = ROOT / "docs/parameters.md"
MARK = "parameters"
NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", dict: "mapping", type(None): "null"}
BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "multiple_of": "multiple of {}"}
PARTS: dict[Any, tuple[str, ...]] = {
    known_benchmark: (named.BENCHMARKS, "facts"),
    known_family: (named.FAMILIES, "family"),
    known_rule: (named.RULES,),
}
LENGTHS = {"min_length": "at least {}", "max_length": "at most {}"}


class Comment(NamedTuple):
    """The comment above a key. first: the key it stands directly above; the keys that follow share it."""

    text: str
    first: bool


def comments(text: str) -> dict[tuple[str, ...], Comment]:
    """(section, key) or (key,) → the nearest comment above it in the same section; nested keys are left out."""
    found: dict[tuple[str, ...], Comment] = {}
    above: list[str] = []
    shared, section = "", ""
    for line in text.splitlines():
        key = re.match(r"^( {0,2})(\w+):", line)
        note = re.match(r"^ {0,2}# ?(.*)$", line)
        if note:
            above.append(note[1])
        elif key:
            if not key[1]:
                section, shared = key[2], ""
            shared = " ".join(above) or shared
            path = (section, key[2]) if key[1] else (key[2],)
            found[path] = Comment(shared, bool(above))
            above = []
            # A comment on a whole section says nothing of its keys.
            shared = shared if key[1] else ""
        elif not line.strip():
            above = []
    return found


def _limits(metadata: list[Any]) -> str:
    """What constrains a value, in words; "" where nothing does."""
    said = []
    for each in (one for item in metadata for one in (getattr(item, "metadata", None) or [item])):
        for name, words in {**BOUNDS, **LENGTHS}.items():
            limit = getattr(each, name, None)
            if limit is not None:
                said.append(words.format(f"{limit:,.0f}" if limit >= 1000 else f"{limit:g}"))
    return ", ".join(said)


def kind(annotation: Any, metadata: list[Any] | None = None) -> str:
    """A type and its limits, in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind(parts[0], [*parts[1:], *(metadata or [])])
    if origin in (Union, types.UnionType):
        return " or ".join(kind(part) for part in parts)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in parts)
    for part in metadata or []:
        if getattr(part, "func", None) in PARTS:
            return ", ".join(f"`{name}`" for name in named.known(*PARTS[part.func])) + " or a dotted name of your own"
    limits = _limits(metadata or [])
    if origin is list:
        return f"list{f' of {limits}' if limits else ''}: {kind(parts[0])}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "mapping"
    # A limit on a text's length is of no interest to the reader.
    return NAMES[annotation] + (f", {limits}" if limits and annotation is not str else "")


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"`{key}`" for key in value) or "`{}`"
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value) or "`[]`"
    return f"`{'null' if value is None else str(value).lower() if isinstance(value, bool) else value}`"


def _escaped(text: str) -> str:
    """As Markdown takes it for text, in a cell of a table too."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("][", "]\\[")


def _table(fields: dict[str, FieldInfo], values: dict[str, Any], notes: dict[str, Comment]) -> list[str]:
    rows = ["| key | type and limits | meaning | laptop |", "|---|---|---|---|"]
    for name, field in fields.items():
        note = notes.get(name, Comment("", True))
        meaning = _escaped(note.text) if note.first or not note.text else "as above"
        rows.append(f"| `{name}` | {kind(field.annotation, field.metadata)} | {meaning} | {_value(values[name])} |")
    return rows


def render() -> str:
    """What stands between the marks."""
    values, notes = preset_values("laptop"), comments(BASE.read_text(encoding="utf-8"))
    sections = {
        name: field.annotation
        for name, field in Params.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    top = {name: field for name, field in Params.model_fields.items() if name not in sections}
    own = {name: notes[(name,)] for name in top}
    lines = ["### The file", "", *_table(top, values, own)]
    for name, model in sections.items():
        of_keys = {path[1]: note for path, note in notes.items() if path[0] == name and len(path) == 2}
        about = " ".join(filter(None, [(model.__doc__ or "").replace("``", "`").strip(), notes[(name,)].text]))
        lines += [
            "",
            f"### {name}",
            "",
            " ".join(about.split()),
            "",
            *_table(model.model_fields, values[name], of_keys),
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replaced(page, MARK, render()), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Presets: the base, and what each changes of it.

``presets/base.yaml`` has every key with its meaning, each file beside it is a preset. A section (env, rl, ...) is
merged key by key. Any other value (seeds, methods, experiments, evaluate.splits) is replaced whole, as by an override;
sections that an experiment leaves out it does not override. A preset's comment follows the base's.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pirl_core.errors import UserError
from pirl_core.params.errors import unknown
from pirl_core.params.file import Run, check_params
from pirl_core.params.sections import Experiment, Params, Section
from pirl_core.readers.strict_yaml import parse_yaml, read_yaml
from pirl_core.readers.text import read_text

PRESETS = Path(__file__).parent / "presets"
BASE = PRESETS / "base.yaml"
SECTIONS = frozenset(
    name
    for name, field in Params.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
)
REMEDY = "a preset is a file of pirl_core/params/presets, in UTF-8"

Place = tuple[str, ...]
"""Where a key stands: ("rl", "gamma"); () is the beginning of the file."""


class Block(NamedTuple):
    """Lines of a key: the comment above it, and the key with what is nested in it."""

    comment: list[str]
    lines: list[str]


def preset_names() -> list[str]:
    """In alphabetical order."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml") if path != BASE)


def preset_values(name: str) -> dict[str, Any]:
    """All values of a preset. Raises UserError, in one line, for an unknown name and for what is wrong in its file."""
    path = _path(name)
    values, changes = read_yaml(BASE), read_yaml(path)
    for key, value in changes.items():
        values[key] = values[key] | value if key in SECTIONS and isinstance(value, dict) else value
    if isinstance(values["experiments"], dict):
        for key, entry in values["experiments"].items():
            nothing: dict[str, Any] = {section: {} for section in Run._fields}
            values["experiments"][key] = nothing | entry if isinstance(entry, dict) else entry
    if check_params(values, str(path)).scale != name:
        raise UserError(f"{path}: scale = {values['scale']}: must be the file's name, {name}")
    return values


def load_preset(name: str) -> Params:
    """The same, typed."""
    return check_params(preset_values(name), name)


def preset_text(name: str) -> str:
    """A preset as a whole parameter file, commented. Raises UserError as ``preset_values`` does."""
    values, path = preset_values(name), _path(name)
    base, changes = (_blocks(read_text(file, REMEDY)) for file in (BASE, path))
    text = "\n".join(_merged(base, changes)) + "\n"
    try:
        if parse_yaml(text, str(path)) == values:
            return text
    except UserError:
        pass
    raise UserError(f"{path}: cannot be put into base.yaml; give each key a line, behind two spaces in a section")


def _path(name: str) -> Path:
    if name not in preset_names():
        raise UserError(f"scale = {name!r}: {unknown(name, preset_names(), 'no such preset')}")
    return PRESETS / f"{name}.yaml"


def _merged(base: dict[Place, Block], changes: dict[Place, Block]) -> Iterator[str]:
    own = ("experiments",) in changes
    for place, block in base.items():
        if own and _of_experiment(place):
            continue
        new = changes.get(place, Block([], []))
        if len(place) == 1:
            yield ""
        yield from [*block.comment, *new.comment]
        yield from new.lines or block.lines
        if own and place == ("experiments",):
            yield from _experiments(changes)


def _experiments(changes: dict[Place, Block]) -> Iterator[str]:
    """Those of a preset, each with all its keys."""
    for place, block in changes.items():
        if _of_experiment(place) and len(place) == 2:
            yield from [*block.comment, *block.lines]
            for key in Experiment.model_fields:
                comment, lines = changes.get((*place, key), Block([], [f"    {key}: {{}}"]))
                yield from [*comment, *lines]


def _of_experiment(place: Place) -> bool:
    return place[:1] == ("experiments",) and len(place) > 1


def _blocks(text: str) -> dict[Place, Block]:
    """The file in pieces; a comment that a blank line ends is of the key above it, at the beginning of the file."""
    here: Place = ()
    blocks, above = {here: Block([], [])}, list[str]()
    for line in text.splitlines():
        key = re.match(r"((?:  )*)(\w+):", line)
        parent = here[: len(key[1]) // 2] if key else here
        if key and _has_blocks(parent):
            here = (*parent, key[2])
            blocks[here] = Block(above, [line])
            above = []
        elif line.lstrip().startswith("#"):
            above.append(line)
        else:
            # What begins the preset shall follow what begins the base, and not replace it: a comment.
            kept = blocks[here].lines if here else blocks[here].comment
            kept += [*above, *([line] if line.strip() else [])]
            above = []
    blocks[here].lines.extend(above)
    return blocks


def _has_blocks(place: Place) -> bool:
    """Whether the keys under it are merged, or completed, one by one."""
    match place:
        case () | ("experiments",) | ("experiments", _):
            return True
        case (section,):
            return section in SECTIONS
    return False

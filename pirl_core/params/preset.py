"""Presets: the base, and what each changes of it.

``presets/base.yaml`` has every key with its meaning, each file beside it is a preset. A section (env, rl, rl.sac, ...)
is merged key by key. Any other value (seeds, methods, experiments, evaluate.splits) is replaced whole, as by an
override; sections that an experiment leaves out it does not override. A preset's comment follows the base's.

A preset with ``extends: NAME`` changes that preset instead of the base. In it ``experiments`` may be a list of names:
those of the other, as they are there. An experiment with ``like: NAME`` is that experiment, of the file or of the other
preset, with its sections changed key by key.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from pirl_core.errors import UserError
from pirl_core.params.errors import unknown
from pirl_core.params.file import Run, check_params
from pirl_core.params.merging import merged, section_at
from pirl_core.params.sections import Experiment, Params
from pirl_core.readers.strict_yaml import parse_yaml, read_yaml
from pirl_core.readers.text import read_text

PRESETS = Path(__file__).parent / "presets"
BASE = PRESETS / "base.yaml"
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
    values = read_yaml(BASE)
    path = BASE
    for path, changes in _line(name):
        for key, value in changes.items():
            match key, value:
                case "extends", _:
                    continue
                case "experiments", list():
                    values[key] = _chosen(path, values[key], value)
                case "experiments", dict():
                    values[key] = _liked(path, values[key], value)
                case _:
                    values = merged(Params, values, {key: value})
    if isinstance(values["experiments"], dict):
        for key, entry in values["experiments"].items():
            nothing: dict[str, Any] = {section: {} for section in Run._fields}
            values["experiments"][key] = nothing | entry if isinstance(entry, dict) else entry
    if check_params(values, str(path)).scale != name:
        raise UserError(f"{path}: scale = {values['scale']}: must be the file's name, {name}")
    return values


def _line(name: str) -> list[tuple[Path, dict[str, Any]]]:
    """The presets that lead from the base to this one, which is the last. Raises UserError for a circle."""
    line: list[tuple[Path, dict[str, Any]]] = []
    while True:
        path = _path(name)
        if path in [before for before, _ in line]:
            raise UserError(f"{path}: extends = {line[0][1]['extends']}: presets extend each other in a circle")
        line.insert(0, (path, read_yaml(path)))
        if "extends" not in line[0][1]:
            return line
        name = str(line[0][1]["extends"])


def _liked(path: Path, before: dict[str, Any], experiments: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, entry in experiments.items():
        found[name] = entry
        if isinstance(entry, dict) and "like" in entry:
            other, known = entry["like"], before | found
            if other not in known or other == name or not isinstance(known[other], dict):
                raise UserError(f"{path}: experiments.{name}.like: {unknown(str(other), [*before, *found])}")
            changed = merged(Params, known[other], entry)
            found[name] = {key: value for key, value in changed.items() if key != "like"}
    return found


def _chosen(path: Path, experiments: Any, names: list[Any]) -> dict[str, Any]:
    for name in names:
        if name not in experiments:
            raise UserError(f"{path}: experiments: {unknown(str(name), experiments)}")
    return {name: experiments[name] for name in names}


def load_preset(name: str) -> Params:
    """The same, typed."""
    return check_params(preset_values(name), name)


def preset_text(name: str) -> str:
    """A preset as a whole parameter file, commented. Raises UserError as ``preset_values`` does."""
    values, line = preset_values(name), _line(name)
    blocks = _blocks(read_text(BASE, REMEDY))
    changes: dict[Place, Block] = {}
    for path, content in line:
        changes = _further(changes, _blocks(read_text(path, REMEDY)), content.get("experiments"))
    text = "\n".join(_merged(blocks, changes, values["experiments"])) + "\n"
    path = line[-1][0]
    try:
        if parse_yaml(text, str(path)) == values:
            return text
    except UserError:
        pass
    raise UserError(f"{path}: cannot be put into base.yaml; give each key a line, behind two spaces in a section")


def _further(before: dict[Place, Block], new: dict[Place, Block], experiments: Any) -> dict[Place, Block]:
    """What a preset changes, and then one that extends it. experiments: what the latter gives for them, if anything."""
    new.pop(("extends",), None)
    if isinstance(experiments, list):
        del new["experiments",]
        chosen = {
            place: before[place] for name in experiments for place in before if place[:2] == ("experiments", name)
        }
    elif experiments is None:
        chosen = {place: block for place, block in before.items() if _of_experiment(place)}
    else:
        chosen = {}
    rest = {place: block for place, block in before.items() if not _of_experiment(place)}
    return rest | {place: block for place, block in new.items() if place not in chosen} | chosen


def _path(name: str) -> Path:
    if name not in preset_names():
        raise UserError(f"scale = {name!r}: {unknown(name, preset_names(), 'no such preset')}")
    return PRESETS / f"{name}.yaml"


def _merged(base: dict[Place, Block], changes: dict[Place, Block], experiments: dict[str, Any]) -> Iterator[str]:
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
            yield from _experiments(changes, experiments)


def _experiments(changes: dict[Place, Block], values: dict[str, Any]) -> Iterator[str]:
    """Those of a preset, each with all its keys."""
    for place, block in changes.items():
        if _of_experiment(place) and len(place) == 2:
            yield from [*block.comment, *block.lines]
            for key in Experiment.model_fields:
                own = changes.get((*place, key), Block([], [f"    {key}: {{}}"]))
                line = f"    {key}: {_in_one_line(values[place[1]][key])}"
                yield from [*own.comment, *([line] if (*place, "like") in changes else own.lines)]


def _in_one_line(value: Any) -> str:
    text: str = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**6)
    return text.strip()[1:-1]


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
    return _section(place) is not None


def _section(place: Place) -> type[BaseModel] | None:
    model: type[BaseModel] | None = Params
    for key in place:
        model = section_at(model, key) if model else None
    return model

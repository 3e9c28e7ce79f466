"""Paths that other people's files name: their templates are filled, and they are followed, inside their folder only."""

import re
from collections.abc import Mapping
from pathlib import Path
from string import Formatter

PADDING = re.compile(r"0?[1-9]d")
"""Of a whole number: with zeros or blanks, to at most 9 places."""


def fill(template: str, values: Mapping[str, int | str]) -> str:
    """``template.format(**values)`` for a template that names values and pads whole numbers, as ``{number:06d}`` does.

    Python's format language also reads attributes, calls conversions and pads to any width. Raises ValueError for all
    that, and for names that are not among the values.
    """
    for _, name, spec, conversion in Formatter().parse(template):
        if name is None:
            continue
        if name not in values:
            raise ValueError(f"{{{name[:40]}}} is none of {', '.join(values)}")
        if conversion or (spec and not (isinstance(values[name], int) and PADDING.fullmatch(spec))):
            shown = f"!{conversion}" if conversion else f":{spec}"
            raise ValueError(f"'{shown[:20]}' of {{{name}}} is no width of a number such as :06d")
    return template.format(**values)


def bare(name: str) -> str:
    """The name of a file that lies in a folder, not deeper and not elsewhere; it may be a link. Raises ValueError."""
    if not isinstance(name, str) or name == ".." or Path(name).name != name or not 0 < len(name.encode()) < 256:
        raise ValueError(f"'{str(name)[:60]}' is no plain name of a file")
    return name


def inside(folder: Path, name: str) -> Path:
    """``folder / name``, which lies below the folder whatever ``..`` and symbolic links it has.

    A snapshot in the hub's cache consists of links into the ``blobs`` beside ``snapshots``; these are part of it.
    Raises ValueError for all else.
    """
    homes = [folder.resolve()]
    if homes[0].parent.name == "snapshots":
        homes.append(homes[0].parent.parent / "blobs")
    try:
        target = (folder / name).resolve()
    except (RuntimeError, TypeError) as error:  # links in a circle, no text at all
        raise ValueError(f"'{name}' is no path ({error})") from None
    if not any(home in target.parents for home in homes):
        raise ValueError(f"'{str(name)[:60]}' leaves its folder")
    return folder / name

"""Text and JSON. Loads nothing but the standard library."""

import errno
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from pirl_core.errors import UserError, first_line

MOST_BYTES = 64 * 2**20
MOST_VALUES = 10**7
DEEPEST = 64
"""Levels of JSON, of which no file of any known layout has ten."""
LARGEST = 1e100
"""Above every number that training in float32 can meet, and its square is still finite."""
LARGEST_WHOLE = 2**63 - 1


def open_regular(path: Path, remedy: str) -> BufferedReader:
    """The file for reading. Raises UserError for one that is absent, closed to us, or no regular file."""
    try:
        # Without O_NONBLOCK a pipe would wait here for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        said = {errno.ENOENT: "no such file", errno.ENXIO: "no regular file"}.get(error.errno or 0, error.strerror)
        raise UserError(f"{path}: {said}; {remedy}") from None
    except ValueError as error:  # a character that no path has
        raise UserError(f"{str(path)!r}: {error}; {remedy}") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise UserError(f"{path}: {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}; {remedy}")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, remedy: str, most: int = MOST_BYTES) -> bytes:
    """The whole file. Raises UserError, as ``open_regular`` does and for more than ``most`` bytes."""
    with open_regular(path, remedy) as file:
        try:
            content = file.read(most + 1)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; {remedy}") from None
    if len(content) > most:
        raise UserError(f"{path}: more than {most:,} bytes, which no such file needs; {remedy}")
    return content


def read_text(path: Path, remedy: str, most: int = MOST_BYTES) -> str:
    """The whole file as UTF-8. Raises UserError as ``read_bytes``, and for other encodings."""
    try:
        return read_bytes(path, remedy, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8 text; {remedy}") from None


def read_json(path: Path, remedy: str, bounded: bool = True) -> dict[str, Any]:
    """The JSON object in ``path``. Raises UserError as ``read_text`` and ``parse_json`` do."""
    return _object(parse_json(read_text(path, remedy), str(path), remedy, bounded), str(path), remedy)


def read_json_list(path: Path, remedy: str) -> list[Any]:
    """The JSON list in ``path``. Raises UserError as ``read_json``."""
    content = parse_json(read_text(path, remedy), str(path), remedy)
    if not isinstance(content, list):
        raise UserError(f"{path}: no JSON list; {remedy}")
    return content


def read_json_lines(path: Path, remedy: str) -> list[dict[str, Any]]:
    """A JSON object a line; empty lines do not count. Raises UserError as ``read_json``, with the line's number."""
    places = [(f"{path}:{number}", line) for number, line in enumerate(read_text(path, remedy).split("\n"), 1)]
    return [_object(parse_json(line, at, remedy), at, remedy) for at, line in places if line.strip()]


def parse_json(text: str, place: str, remedy: str, bounded: bool = True) -> Any:
    """The value that ``text`` says. ``place``: where it stands, for the message. ``bounded``: False admits numbers
    of any size, NaN and infinite ones too, for a reader that names them itself.

    Raises UserError for what is no JSON, NaN and infinity among it; for a key that an object has twice; for values
    nested deeper than DEEPEST; and for numbers beyond LARGEST, or beyond 64 bits if whole.
    """
    try:
        number, whole = (_number, _whole) if bounded else (float, float)
        value = json.loads(
            text, parse_int=whole, parse_float=number, parse_constant=number, object_pairs_hook=_each_key_once
        )
        check_content(value, MOST_VALUES)
    except RecursionError:
        raise UserError(f"{place}: no valid JSON (nested deeper than {DEEPEST} levels); {remedy}") from None
    except ValueError as error:
        raise UserError(f"{place}: no valid JSON ({first_line(error)}); {remedy}") from None
    return value


def _whole(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > LARGEST_WHOLE:
        raise ValueError(f"the number {digits[:24]} has more than 64 bits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not abs(value) <= LARGEST:
        raise ValueError(f"the number {digits[:24]} is beyond {LARGEST:g}")
    return value


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.60} is given twice")
    return made


def check_content(value: Any, most: int) -> None:
    """Raises ValueError for more than ``most`` keys and values, parts that are shared counted wherever they appear; for
    more than DEEPEST levels, which what holds itself has; and for half of a surrogate pair, which no file can hold.

    Level by level: a function that calls itself would be what fails.
    """
    level, count, depth = [value], 1, 0
    while level:
        for text in level:
            if isinstance(text, str) and not text.isascii():
                text.encode()
        nodes = [item for item in level if isinstance(item, dict | list)]
        depth += bool(nodes)
        count += sum(map(len, nodes))
        if depth > DEEPEST or count > most:
            raise ValueError(
                f"nested deeper than {DEEPEST} levels" if depth > DEEPEST else f"more than {most:,} values"
            )
        level = [inner for node in nodes for inner in ((*node, *node.values()) if isinstance(node, dict) else node)]


def _object(value: Any, place: str, remedy: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{place}: no JSON object; {remedy}")
    return value

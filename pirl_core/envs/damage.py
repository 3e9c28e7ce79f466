"""Which mesh, picture or description of a folder is visibly not whole.

Simulators take some of these in silence: pybullet drops a broken mesh, PhysX a broken collision shape, and the physics
is another one. Only the beginning and the end of a file are read. Formats of other endings are not judged.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ENDS = 4096


class Look(NamedTuple):
    """A file's first and last bytes, at most ``ENDS`` of each."""

    size: int
    head: bytes
    tail: bytes


def _obj(file: Look) -> bool:
    """Faces come last, so a file that was cut among its points has none there; a cut among the faces does not show."""
    return b"\nf " in file.tail


def _stl(file: Look) -> bool:
    """Text, or 84 bytes and 50 for each triangle."""
    if len(file.head) >= 84 and file.size == 84 + 50 * int(struct.unpack_from("<I", file.head, 80)[0]):
        return True
    return file.head.startswith(b"solid") and b"endsolid" in file.tail


def _glb(file: Look) -> bool:
    """The third number of the header is the file's size."""
    return file.head[:4] == b"glTF" and file.head[8:12] == struct.pack("<I", file.size)


def _msh(file: Look) -> bool:
    """MuJoCo's: four counts, then points, normals, texture coordinates and triangles."""
    if len(file.head) < 16:
        return False
    points, normals, texture, triangles = map(int, struct.unpack_from("<4i", file.head))
    return file.size == 16 + 12 * points + 12 * normals + 8 * texture + 12 * triangles


def _png(file: Look) -> bool:
    return file.head.startswith(b"\x89PNG") and b"IEND" in file.tail


def _jpg(file: Look) -> bool:
    return file.head.startswith(b"\xff\xd8") and b"\xff\xd9" in file.tail


def _xml(file: Look) -> bool:
    return file.head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<") and file.tail.rstrip(b"\0 \r\n\t").endswith(b">")


def _json(file: Look) -> bool:
    return file.tail.rstrip()[-1:] in (b"}", b"]")


WHOLE: dict[str, Callable[[Look], bool]] = {
    ".obj": _obj, ".stl": _stl, ".glb": _glb, ".msh": _msh, ".png": _png, ".jpg": _jpg, ".jpeg": _jpg, ".xml": _xml,
    ".urdf": _xml, ".dae": _xml, ".json": _json,
}  # fmt: skip


def damaged(folder: Path) -> list[Path]:
    """Files below the folder that are not whole, hidden folders left out. Raises OSError where one cannot be read."""
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        whole = WHOLE.get(path.suffix.lower())
        if whole is not None and not hidden and path.is_file() and not whole(_look(path)):
            found.append(path)
    return found


def _look(path: Path) -> Look:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(ENDS)
        file.seek(max(0, size - ENDS))
        return Look(size, head, file.read())

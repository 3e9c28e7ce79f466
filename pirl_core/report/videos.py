"""The video strip: a few episodes of every policy as data URIs, so that the page opens without its folder."""

import base64
from typing import NamedTuple

from pirl_core.errors import UserError
from pirl_core.readers.text import read_bytes
from pirl_core.report.inputs import REMEDY, Clip

MIME = {".mp4": "video/mp4", ".gif": "image/gif", ".webp": "image/webp", ".webm": "video/webm"}
PER_POLICY = 6
MAX_BYTES = 24 * 2**20


class Embedded(NamedTuple):
    """A clip that is part of the page."""

    clip: Clip
    uri: str
    is_video: bool


def choose(clips: list[Clip], most: int = PER_POLICY) -> list[Clip]:
    """In-distribution first, successes and failures in turn, each task once before any comes twice."""
    ordered: list[Clip] = []
    rest = sorted(clips, key=lambda clip: (clip.split != "id", clip.split, clip.task, clip.episode))
    while rest and len(ordered) < most:
        wanted = len(ordered) % 2 == 0
        best = min(rest, key=lambda clip: _rank(clip, wanted, ordered))
        rest.remove(best)
        ordered.append(best)
    return ordered


def _rank(clip: Clip, wanted: bool, chosen: list[Clip]) -> tuple[bool, bool, int, int]:
    """Lower is better: ID, the wanted outcome, then the split and the task shown least so far."""
    splits, tasks = [other.split for other in chosen], [other.task for other in chosen]
    return clip.split != "id", clip.success != wanted, splits.count(clip.split), tasks.count(clip.task)


def embed(clips: list[Clip], budget: int) -> tuple[list[Embedded], int]:
    """Clips as data URIs while they fit in `budget` bytes; returns them and the bytes left.

    Raises UserError for a file that no browser plays.
    """
    embedded = []
    for clip in clips:
        mime = MIME.get(clip.path.suffix.lower())
        if mime is None:
            raise UserError(f"{clip.path}: videos must be one of {sorted(MIME)}: {REMEDY}")
        if clip.path.stat().st_size > budget:
            continue
        data = read_bytes(clip.path, REMEDY, budget)
        budget -= len(data)
        uri = f"data:{mime};base64,{base64.b64encode(data).decode()}"
        embedded.append(Embedded(clip, uri, mime.startswith("video")))
    return embedded, budget

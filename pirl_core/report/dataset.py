"""A dataset as text and as a page that opens offline: what is in it, and what curate would say of it."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from pirl_core.data.inspection import Picture, Seen
from pirl_core.report.page import environment
from pirl_core.report.tables import aligned

BARS = " ▁▂▃▄▅▆▇█"
TASKS, QUANTILES = ("sentence", "episodes"), ("number", "least", "1 %", "median", "99 %", "greatest")


def summary(seen: Seen) -> str:
    lengths = np.array(seen.lengths)
    frames = f"{lengths.sum():,} frames, {lengths.min()} to {lengths.max()} an episode, median {np.median(lengths):g}"
    return (
        f"{seen.version}, robot {seen.robot}, {seen.rate:g} frames a second. {len(lengths):,} episodes of"
        f" {len(seen.tasks):,} tasks; {frames}. Numbers of {seen.looked:,} episodes were looked at."
    )


def tasks(seen: Seen) -> list[list[str]]:
    """Most episodes first."""
    ordered = sorted(seen.tasks.items(), key=lambda pair: (-pair[1], pair[0]))
    return [[sentence, str(count)] for sentence, count in ordered]


def numbers(seen: Seen) -> list[list[str]]:
    return [[number.name, *(f"{value:.4g}" for value in number.quantiles)] for number in seen.numbers]


def as_text(seen: Seen, expected: Mapping[str, Sequence[str]]) -> str:
    """expected: experiment → what curate would say."""
    rows = [[*row, _bars(number.counts)] for row, number in zip(numbers(seen), seen.numbers, strict=True)]
    parts = [
        f"{seen.source}: {summary(seen)}",
        "\n".join(f"camera {name}: {kind}" for name, kind in seen.cameras.items()),
        aligned(list(TASKS), tasks(seen)),
        aligned([*QUANTILES, "histogram"], rows) if rows else "",
        "\n".join(f"damaged: {fault}" for fault in seen.faults),
        "\n".join(f"{name}: {line}" for name, lines in expected.items() for line in lines),
    ]
    return "\n\n".join(part for part in parts if part)


def as_page(seen: Seen, expected: Mapping[str, Sequence[str]]) -> str:
    """HTML in one piece: its pictures are part of it."""
    return (
        environment()
        .get_template("dataset.html.j2")
        .render(
            seen=seen,
            summary=summary(seen),
            tasks=[list(TASKS), tasks(seen)],
            numbers=list(zip(numbers(seen), seen.numbers, strict=True)),
            quantiles=QUANTILES,
            pictures=[(picture, _uri(picture)) for picture in seen.pictures],
            expected=expected,
        )
    )


def _bars(counts: np.ndarray) -> str:
    """Any count that is not 0 shows."""
    heights = np.ceil(counts / max(1, counts.max()) * (len(BARS) - 1)).astype(int)
    return "".join(BARS[height] for height in heights)


def _uri(picture: Picture) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture.pixels).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

"""A recorded dataset in memory, plain so far: tests make it odd, write and read it."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pirl_core.data.lerobot import DemoEpisode
from pirl_core.data.recorded import open_recorded, read_episodes
from pirl_core.facts import facts_of
from pirl_core.params.sections import Curate, Env

SIZE, RATE = 32, 10
LIBERO = Env(
    benchmark="libero", tasks=["libero_object_9", "libero_10_3"], shift="none", episode_steps=9,
    cameras=["agentview", "eye_in_hand"], image_size=SIZE, fast_render=True, object_state=False, keys={},
    frame_stack=1,
    sim_backend="cpu",
)  # fmt: skip
CURATE = Curate(
    dataset="odd", dataset_revision=None, columns={}, expert_return=None, expert_steps=1, seed=0,
    episodes_per_task=2, still_frames=0, action_noise=0.0,
    max_attempts_per_episode=1, keep_per_task=None, keep_episodes=None, real=None,
)  # fmt: skip
IMAGES = ("image", "wrist_image")


def encoded(pixels: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture if mode is None else picture.convert(mode)).save(buffer, format="PNG")
    return buffer.getvalue()


@dataclass
class Dataset:
    """A LeRobot v2.1 dataset before it is written: tests change what they like. tables: by number, columns as lists."""

    info: dict[str, Any]
    listed: list[dict[str, Any]]
    tables: dict[int, dict[str, list[Any]]]
    line_end: str = "\n"
    files: dict[str, bytes] = field(default_factory=dict)  # others, such as pictures

    def write(self, folder: Path) -> Path:
        (folder / "meta").mkdir(parents=True)
        (folder / "meta/info.json").write_text(json.dumps(self.info))
        lines = "".join(json.dumps(row, ensure_ascii=False) + self.line_end for row in self.listed)
        (folder / "meta/episodes.jsonl").write_bytes(lines.encode())
        for number, columns in self.tables.items():
            path = folder / f"data/chunk-{number // 2:03d}/episode_{number:06d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(columns), path)
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder


def plain(env: Env = LIBERO, lengths: tuple[int, ...] = (4, 1, 3, 5), seed: int = 0, reach: float = 1.0) -> Dataset:
    """Random episodes of ``env.tasks`` in turn, with the column names of the hub's LIBERO dataset or LeRobot's own.

    reach: how far actions go.
    """
    facts, rng = facts_of(env.benchmark), np.random.default_rng(seed)
    names = dict(zip(env.cameras, IMAGES, strict=True)) if env.benchmark == "libero" else {}
    state, action = ("state", "actions") if env.benchmark == "libero" else ("observation.state", "action")
    features: dict[str, Any] = {name: {"dtype": "image", "shape": [SIZE, SIZE, 3]} for name in names.values()}
    features[state] = {"dtype": "float32", "shape": [len(facts.state)]}
    features[action] = {"dtype": "float32", "shape": [len(facts.action)]}
    features |= {name: {"dtype": "int64", "shape": [1]} for name in ("timestamp", "frame_index", "episode_index")}
    dataset = Dataset({"codebase_version": "v2.1", "fps": RATE, "chunks_size": 2, "features": features}, [], {})
    for number, length in enumerate(lengths):
        sentence = facts.task(env.tasks[number % len(env.tasks)]).sentences[0]
        dataset.listed.append({"episode_index": number, "tasks": [sentence], "length": length})
        dataset.tables[number] = {
            state: list(rng.standard_normal((length, len(facts.state))).astype(np.float32)),
            action: list(rng.uniform(-reach, reach, (length, len(facts.action))).astype(np.float32)),
            "timestamp": [np.float32(frame / RATE) for frame in range(length)],
            "frame_index": list(range(length)),
            "episode_index": [number] * length,
        } | {
            name: [
                {"bytes": encoded(pixels), "path": None}
                for pixels in rng.integers(0, 256, (length, SIZE, SIZE, 3), np.uint8)
            ]
            for name in names.values()
        }
    dataset.info |= {"total_episodes": len(lengths), "total_frames": sum(lengths)}
    return dataset


def read(dataset: Dataset, env: Env = LIBERO) -> list[DemoEpisode]:
    with TemporaryDirectory() as scratch:
        data = open_recorded(str(dataset.write(Path(scratch) / "odd")), None, env)
        return list(read_episodes(data, env, data.episodes))


def same(found: list[DemoEpisode], wanted: list[DemoEpisode]) -> bool:
    pairs = zip(found, wanted, strict=True)
    return all(
        np.array_equal(np.asarray(a), np.asarray(b))
        for mine, theirs in pairs
        for a, b in zip(mine, theirs, strict=True)
    )


def pixels_of(cell: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(cell["bytes"])))


def stored(dataset: Dataset, name: str, how: str) -> None:
    """The pictures of a column, the same ones, kept in another way."""
    if how.endswith("chw"):
        dataset.info["features"][name]["shape"] = [3, SIZE, SIZE]
    for number, columns in dataset.tables.items():
        for frame, cell in enumerate(columns[name]):
            pixels = pixels_of(cell)
            numbers = pixels.transpose(2, 0, 1) if how.endswith("chw") else pixels
            numbers = numbers.astype(np.float32) / 255 if how.startswith("float") else numbers
            file = f"images/{name}/{number}_{frame}.png"
            if how == "path":
                dataset.files[file] = cell["bytes"]
            columns[name][frame] = {
                "struct": cell,
                "binary": cell["bytes"],
                "rgba": {"bytes": encoded(np.dstack([pixels, np.full((SIZE, SIZE), 9, np.uint8)])), "path": "x.png"},
                "path": {"bytes": None, "path": file},
            }.get(how) or (numbers.ravel() if "flat" in how else list(map(list, numbers)))

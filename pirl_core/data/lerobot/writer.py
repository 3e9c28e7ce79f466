"""Writes episodes as a LeRobot v3.0 dataset, one episode in memory at a time.

Equal episodes give equal bytes: nothing in the files depends on time, machine or the order in which episodes were made.
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pirl_core.data.lerobot import schema
from pirl_core.data.lerobot.stats import image_histogram, image_stats, vector_stats
from pirl_core.facts import Facts
from pirl_core.files import naming, write_json
from pirl_core.types import DemoEpisode


def write_dataset(
    folder: Path,
    episodes: Iterable[DemoEpisode],
    cameras: list[str],
    facts: Facts,
    file_mb: int = schema.DATA_FILE_MB,
) -> None:
    """Writes ``episodes`` (at least one) into the existing, empty ``folder``; a data file is closed at ``file_mb``.

    facts: the robot, what the numbers of state and action are called, and how many a second.
    """
    writer: DataFiles | None = None
    tasks: dict[str, int] = {}
    rows, vectors, histograms = [], [], []
    for index, episode in enumerate(episodes):
        task_index = tasks.setdefault(episode.instruction, len(tasks))
        if writer is None:
            columns = schema.features(cameras, episode.images.shape[2] if cameras else 0, facts)
            writer = DataFiles(folder, schema.arrow_schema(columns), file_mb)
        arrays = _vector_columns(episode, index, task_index, writer.frames, facts)
        pictures = {schema.IMAGE.format(camera=c): episode.images[:, i] for i, c in enumerate(cameras)}
        counts = {name: image_histogram(images) for name, images in pictures.items()}
        rows.append(
            {
                "episode_index": index,
                "tasks": [episode.instruction],
                "length": len(episode.actions),
                "dataset_from_index": writer.frames,
                "dataset_to_index": writer.frames + len(episode.actions),
                **writer.write(arrays, pictures),
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
                "env_seed": episode.seed,
                "failed_attempts": episode.failures,
                **_flat_stats(_stats(arrays, counts)),
            }
        )
        vectors.append(arrays)
        histograms.append(counts)
    if writer is None:
        raise ValueError("a dataset needs at least one episode")
    writer.close()
    total = {name: np.concatenate([arrays[name] for arrays in vectors]) for name in vectors[0]}
    summed = {name: np.sum([counts[name] for counts in histograms], axis=0) for name in histograms[0]}
    write_json(folder / schema.STATS, _stats(total, summed))
    write_json(folder / schema.INFO, _info(columns, facts, len(rows), writer.frames, len(tasks), file_mb))
    with naming(folder / schema.TASKS):
        pd.DataFrame({"task_index": list(tasks.values())}, index=list(tasks)).to_parquet(folder / schema.TASKS)
    path = folder / schema.EPISODES.format(chunk_index=0, file_index=0)
    path.parent.mkdir(parents=True)
    with naming(path):
        pq.write_table(pa.Table.from_pylist(rows), path)


class DataFiles:
    """The data files of a dataset: appends episodes, begins the next file when one is full."""

    def __init__(self, folder: Path, arrow_schema: pa.Schema, file_mb: int) -> None:
        self.folder = self.path = folder
        self.schema = arrow_schema
        self.limit = file_mb * 2**20
        self.frames = 0
        self.files = 0
        self.bytes = 0
        self.writer: pq.ParquetWriter | None = None

    def write(self, arrays: dict[str, np.ndarray], pictures: dict[str, np.ndarray]) -> dict[str, int]:
        """Appends one episode; gives the columns of the episode table that say where it lies."""
        columns = {name: pa.array(_values(values), self.schema.field(name).type) for name, values in arrays.items()}
        for name, images in pictures.items():
            encoded = [{"bytes": _png(image), "path": None} for image in images]
            columns[name] = pa.array(encoded, self.schema.field(name).type)
        table = pa.table([columns[name] for name in self.schema.names], schema=self.schema)
        if self.writer is None or self.bytes + table.nbytes > self.limit:
            self._next_file()
        assert self.writer is not None
        with naming(self.path):
            self.writer.write_table(table)
        self.bytes += table.nbytes
        self.frames += len(table)
        chunk, file = divmod(self.files - 1, schema.FILES_PER_CHUNK)
        return {"data/chunk_index": chunk, "data/file_index": file}

    def close(self) -> None:
        if self.writer is not None:
            with naming(self.path):
                self.writer.close()

    def _next_file(self) -> None:
        self.close()
        chunk, file = divmod(self.files, schema.FILES_PER_CHUNK)
        self.path = self.folder / schema.DATA.format(chunk_index=chunk, file_index=file)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Pictures are compressed already, and where nothing hides their bytes each can be read alone (``Pictures``).
        self.writer = pq.ParquetWriter(self.path, self.schema, compression="none", use_dictionary=False)
        self.files += 1
        self.bytes = 0


def _vector_columns(
    episode: DemoEpisode, index: int, task_index: int, first_frame: int, facts: Facts
) -> dict[str, np.ndarray]:
    length = len(episode.actions)
    frames = np.arange(length)
    return {
        schema.STATE: episode.state[:, : len(facts.state)].astype(np.float32),
        schema.ENVIRONMENT_STATE: episode.state.astype(np.float32),
        schema.ACTION: episode.actions.astype(np.float32),
        "next.reward": episode.rewards.astype(np.float32),
        "next.done": frames == length - 1,
        "next.success": episode.success.astype(bool),
        "timestamp": (frames / facts.rate).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full(length, index),
        "index": first_frame + frames,
        "task_index": np.full(length, task_index),
    }


def _stats(arrays: dict[str, np.ndarray], counts: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    frames = len(arrays[schema.ACTION])
    pictures = {name: image_stats(histogram, frames) for name, histogram in counts.items()}
    return pictures | {name: vector_stats(values) for name, values in arrays.items()}


def _flat_stats(stats: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"stats/{name}/{key}": value for name, values in stats.items() for key, value in values.items()}


def _info(
    columns: dict[str, Any], facts: Facts, episodes: int, frames: int, tasks: int, file_mb: int
) -> dict[str, Any]:
    return {
        "codebase_version": schema.VERSION,
        "robot_type": facts.robot,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": schema.FILES_PER_CHUNK,
        "data_files_size_in_mb": file_mb,
        "video_files_size_in_mb": 200,
        "fps": facts.rate,
        "splits": {"train": f"0:{episodes}"},
        "data_path": schema.DATA,
        "video_path": None,
        "features": columns,
    }


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _values(array: np.ndarray) -> list[Any]:
    """A value a frame; LeRobot keeps a feature of one number as that number, not as a list."""
    return list(array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array)

"""Memory of SFT on a dataset that is larger than memory: 1,000 episodes, two cameras of 224 x 224.

The dataset is made by the writer that stage curate uses, of pictures that compress like those of a camera; most of its
files are copies of a few, numbered on. A process of its own reads it, asks for more frames than are kept, builds a tiny
policy and takes some steps of SFT, as stage sft does.
"""

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.measure import Row, part_parser, run_part, seconds
from benchmarks.setting import laptop, supervision
from pirl_core.data.lerobot import DemoEpisode, Pictures, read_dataset, write_dataset
from pirl_core.data.lerobot.pictures import HELD_BYTES
from pirl_core.data.lerobot.schema import DATA, INFO
from pirl_core.envs.libero.facts import FACTS
from pirl_core.params.sections import Env
from pirl_core.provenance.machine import MemoryWatch

MOST_GIB = 4.0
DISTINCT = 10
SIZE = 224
ENV = Env(
    benchmark="libero", tasks=["libero_spatial"], shift="none", episode_steps=200, cameras=["agentview", "eye_in_hand"],
    image_size=SIZE, fast_render=True, object_state=False, keys={}, frame_stack=1, sim_backend="cpu",
)  # fmt: skip


def scenes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, SIZE, SIZE, 3) uint8: waves of all lengths in colours of their own, and a sensor's noise."""
    down, right = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    made = np.full((count, SIZE, SIZE, 3), 127.0)
    for _ in range(6):
        wave = np.sin(2 * np.pi * (rng.uniform(-6, 6) * down + rng.uniform(-6, 6) * right))
        made += wave[..., None] * rng.uniform(10, 30, (count, 1, 1, 3))
    return np.asarray(np.clip(made + rng.normal(0, 2, made.shape), 0, 255), np.uint8)


def demonstrations(episodes: int, length: int) -> Iterator[DemoEpisode]:
    rng = np.random.default_rng(0)
    for number in range(episodes):
        last = np.arange(length) == length - 1
        yield DemoEpisode(
            "libero_spatial_0",
            FACTS.tasks["libero_spatial_0"].sentences[0],
            number,
            0,
            scenes(rng, 2 * length).reshape(length, 2, SIZE, SIZE, 3),
            rng.standard_normal((length, FACTS.object_state)).astype(np.float32),
            rng.uniform(-1, 1, (length, len(FACTS.action))).astype(np.float32),
            last.astype(np.float32),
            last,
        )


def write(folder: Path, episodes: int, length: int) -> None:
    """A dataset of so many episodes, of which DISTINCT differ."""
    write_dataset(folder, demonstrations(DISTINCT, length), list(ENV.cameras), FACTS, file_mb=2**20)
    first = folder / DATA.format(chunk_index=0, file_index=0)
    table = pq.read_table(first)
    for copy in range(1, -(-episodes // DISTINCT)):
        for name, step in (("episode_index", DISTINCT), ("index", len(table))):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(place), pc.add(table[name], step))
        path = folder / DATA.format(chunk_index=0, file_index=copy)
        pq.write_table(table, path, row_group_size=length, compression="none", use_dictionary=False)
    info = json.loads((folder / INFO).read_text())
    copies = -(-episodes // DISTINCT)
    totals = {"total_episodes": copies * DISTINCT, "total_frames": copies * len(table)}
    (folder / INFO).write_text(json.dumps(info | totals))


def train(folder: Path, steps: int, batch: int) -> dict[str, float]:
    """What reading and ``steps`` of SFT took: seconds, and the process's peak of memory in GiB."""
    from pirl_core.sft.build import build_policy
    from pirl_core.sft.train import train_sft
    from pirl_core.training.session import open_session

    run = laptop()
    sft = run.sft.model_copy(update={"steps": steps, "batch_size": batch, "log_every": steps})
    with MemoryWatch() as memory, chdir(folder.parent):
        frames = read_dataset(folder, ENV.cameras, object_state=False)
        assert isinstance(frames.images, Pictures)
        memory._look()
        read = memory.peak_mib
        rng, row_bytes = np.random.default_rng(0), int(np.prod(frames.images.shape[1:]))
        rounds = -(-2 * HELD_BYTES // row_bytes // batch)
        wanted = rng.integers(len(frames.images), size=(rounds, batch))
        fetched = [seconds(lambda rows=rows: frames.images[rows]) for rows in wanted]  # type: ignore[misc]
        policy = build_policy(ENV, run.policy.model_copy(update={"size": "nano"}), frames, frames.tasks, 0).policy
        session = open_session("sft", "dataset", "", {}, supervision(), steps, Path("policy"), Path("log"))
        with redirect_stdout(io.StringIO()), session as inside:
            spent = seconds(lambda: train_sft(policy, frames, ENV.cameras, sft, 0, inside))
    return {
        "read_gib": read / 1024,
        "peak_gib": memory.peak_mib / 1024,
        "step": spent / steps,
        "fetch": float(np.median(fetched[-len(fetched) // 2 :])),
        "frames": len(frames.state),
    }


def rows(options: argparse.Namespace) -> list[Row]:
    home = Path(tempfile.mkdtemp(dir=options.scratch))
    try:
        folder = home / "dataset"
        folder.mkdir()
        write(folder, options.episodes, options.frames)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**30
        command = [sys.executable, "-m", "benchmarks.dataset", "--train", str(folder)]
        command += ["--steps", str(options.steps), "--batch", str(options.batch)]
        begun = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(begun.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(home)
    pixels = found["frames"] * 2 * SIZE**2 * 3 / 2**30
    return [
        Row(
            f"SFT on {options.episodes:,} episodes of {options.frames} frames, two cameras of {SIZE}²: peak memory",
            f"{found['peak_gib']:.2f} GiB",
            f"≤ {MOST_GIB:g} GiB",
            found["peak_gib"] <= MOST_GIB,
            f"{size:.1f} GiB of PNG on disk, {pixels:.1f} GiB of pixels; {options.steps} steps of {options.batch}"
            f" samples with a nano π0; {found['read_gib']:.2f} GiB when the dataset had been read",
        ),
        Row(
            f"the same: ms of {options.batch} samples' pictures, of a step",
            f"{1e3 * found['fetch']:.0f}, {1e3 * found['step']:.0f}",
            how="frames drawn from the whole dataset, of which few are kept",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("dataset", __doc__)
    add = parser.add_argument
    add("--episodes", type=int, default=1000, help="episodes of the dataset")
    add("--frames", type=int, default=60, help="frames of an episode")
    add("--steps", type=int, default=10, help="steps of SFT")
    add("--batch", type=int, default=64, help="samples of a step")
    add("--scratch", type=Path, help="where the dataset is made, and removed afterwards (default: the system's folder)")
    add("--train", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options, _ = parser.parse_known_args(arguments)
    if options.train:
        print(json.dumps(train(options.train.resolve(), options.steps, options.batch)))
    else:
        run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()

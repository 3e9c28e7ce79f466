"""Files of steps in the layouts of D4RL, OGBench, Minari and robomimic, of the same episodes, for tests to make odd."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.data.with_minari import PARTS, Raw

SPLIT = {"b": slice(0, PARTS[0]), "a": slice(PARTS[0], None)}
"""How observations lie in a group, in the order that makes the state."""


def flat(raws: Sequence[Raw], beyond: int = 0) -> dict[str, np.ndarray]:
    """All steps one after the other; every second episode ends by its time. beyond: steps after the last end."""
    lengths = [len(raw.rewards) for raw in raws]
    last = np.concatenate([np.arange(length) == length - 1 for length in lengths])
    odd = np.repeat(np.arange(len(raws)) % 2 == 1, lengths)
    found = {
        "observations": np.concatenate([raw.observations[:-1] for raw in raws]),
        "actions": np.concatenate([raw.actions for raw in raws]),
        "rewards": np.concatenate([raw.rewards for raw in raws]),
        "terminals": last & ~odd,
        "timeouts": last & odd,
    }
    more = {name: np.zeros((beyond, *values.shape[1:]), values.dtype) for name, values in found.items()}
    return {name: np.concatenate([values, more[name]]) for name, values in found.items()}


def d4rl(path: Path, arrays: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip" if np.ndim(values) else None)
        file["infos/qpos"] = np.zeros((len(arrays["actions"]) if "actions" in arrays else 3, 6))
        file["metadata/algorithm"] = b"SAC"
    return path


def ogbench(path: Path, arrays: dict[str, Any]) -> Path:
    """``terminals`` end an episode for whatever reason; there are no rewards."""
    kept = {name: values for name, values in arrays.items() if name not in ("rewards", "terminals", "timeouts")}
    ends = arrays["terminals"] | arrays["timeouts"]
    np.savez_compressed(path, **kept, terminals=ends, qpos=np.zeros((len(ends), 6)))
    return path


def minari(folder: Path, raws: Sequence[Raw], parts: bool = False) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "data/metadata.json").write_text(json.dumps({"data_format": "hdf5", "dataset_id": "lab/hop-v0"}))
    with h5py.File(folder / "data/main_data.hdf5", "w", track_order=True) as file:
        for number, raw in enumerate(raws):
            group = file.create_group(f"episode_{number}")
            group["actions"], group["rewards"] = raw.actions, raw.rewards
            group["terminations"] = group["truncations"] = np.zeros(len(raw.rewards), bool)
            group["infos"] = ["{}"] * len(raw.observations)
            for name, where in (SPLIT if parts else {"": slice(None)}).items():
                group[f"observations/{name}".rstrip("/")] = raw.observations[:, where]
    return folder


def robomimic(path: Path, raws: Sequence[Raw], numbers: Sequence[int], pictures: int = 0) -> Path:
    """numbers: of the demos. pictures: pixels of a side of ``obs/front_image``; 0: none."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(
            {"env_name": "NutHop", "env_type": 1, "env_kwargs": {"control_freq": 20, "has_renderer": False}}
        )
        for number, raw in zip(numbers, raws, strict=True):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = len(raw.rewards)
            demo["actions"], demo["rewards"] = raw.actions.astype(np.float64), raw.rewards
            demo["dones"], demo["states"] = np.zeros(len(raw.rewards)), np.zeros((len(raw.rewards), 20))
            for part, rows in (("obs", slice(0, -1)), ("next_obs", slice(1, None))):
                for name, where in SPLIT.items():
                    demo[f"{part}/{name}"] = raw.observations[rows, where]
            if pictures:
                shade = np.arange(len(raw.rewards), dtype=np.uint8)[:, None, None, None] * 9
                demo["obs/front_image"] = np.broadcast_to(shade, (len(raw.rewards), pictures, pictures, 3))
        file["mask/train"] = [f"demo_{number}".encode() for number in numbers]
    return path

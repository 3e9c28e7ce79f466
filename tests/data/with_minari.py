"""What Minari's own package writes, in an environment of its own: it needs numpy 2.

python3.11 -m venv minari && minari/bin/pip install minari==0.5.4 h5py pillow
PYTHONPATH=. minari/bin/python -m tests.data.with_minari tests/data/minari

The folder tests/data/minari is what this wrote: the dataset ``lab/vector-v0``, whose observations are an array, and
``lab/dict-v0``, whose are two. ``episodes()`` are what went in.
"""

import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

LENGTHS = (4, 1, 6)
STATE, ACTION, PARTS = 11, 3, (2, 9)
"""Of Hopper-v5; PARTS: of the two arrays ``b`` and ``a`` in which the observations may come."""


class Raw(NamedTuple):
    """observations: (T + 1, 11), actions: (T, 3) in (-1, 1), rewards: (T,), all float32."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray


def episodes() -> list[Raw]:
    rng = np.random.default_rng(0)
    return [
        Raw(
            rng.standard_normal((length + 1, STATE)).astype(np.float32),
            rng.uniform(-1, 1, (length, ACTION)).astype(np.float32),
            rng.standard_normal(length).astype(np.float32),
        )
        for length in LENGTHS
    ]


def write(folder: Path) -> None:
    os.environ["MINARI_DATASETS_PATH"] = str(folder.absolute())
    import minari
    from gymnasium.spaces import Box, Dict
    from minari.data_collector import EpisodeBuffer

    def box(count: int) -> Box:
        return Box(-np.inf, np.inf, (count,), np.float32)

    spaces = {"vector": box(STATE), "dict": Dict({"a": box(PARTS[1]), "b": box(PARTS[0])})}
    for name, space in spaces.items():
        buffers = []
        for raw in episodes():
            first, second = np.split(raw.observations, PARTS[:1], 1)
            last = [False] * (len(raw.rewards) - 1) + [True]
            buffers.append(
                EpisodeBuffer(
                    observations=raw.observations if name == "vector" else {"b": first, "a": second},
                    actions=raw.actions,
                    rewards=[*raw.rewards],
                    terminations=last,
                    truncations=[False] * len(last),
                )
            )
        minari.create_dataset_from_buffers(
            f"lab/{name}-v0", buffers, observation_space=space, action_space=Box(-1, 1, (ACTION,), np.float32)
        )


if __name__ == "__main__":
    write(Path(sys.argv[1]))

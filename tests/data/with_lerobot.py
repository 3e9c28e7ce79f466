"""What LeRobot's own package writes and reads, in an environment of its own: it needs numpy 2 and Python 3.12.

python3.12 -m venv lerobot && lerobot/bin/pip install 'lerobot[dataset]==0.6.1'
PYTHONPATH=. lerobot/bin/python -m tests.data.with_lerobot write tests/data/lerobot
PYTHONPATH=. lerobot/bin/python -m tests.data.with_lerobot read FOLDER   # prints what its reader makes of a dataset

The folder tests/data/lerobot is what the first of these wrote: one dataset of images and one of videos, each in two
data files, the videos in several too. ``EPISODES`` are what went in.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CAMERAS = ("image", "image2")
SIZE, RATE = 48, 20
LENGTHS = (7, 1, 9, 5)
SENTENCES = ("turn on the stove", "put the bowl on the plate")


class Raw(NamedTuple):
    """pictures: (T, 2, H, W, 3) uint8. state: (T, 8) float32. action: (T, 7) float32."""

    sentence: str
    pictures: np.ndarray
    state: np.ndarray
    action: np.ndarray


def episodes() -> list[Raw]:
    """Ramps in colours of their own, which grow brighter from frame to frame: no codec can mistake one for another."""
    rng = np.random.default_rng(0)
    down, right = (np.mgrid[0:SIZE, 0:SIZE] * 60 / SIZE)[..., None]
    made = []
    for number, length in enumerate(LENGTHS):
        ramp = down * rng.random((2, 1, 1, 3)) + right * rng.random((2, 1, 1, 3)) + 40 * rng.random((2, 1, 1, 3))
        pictures = (ramp + 15 * np.arange(length).reshape(-1, 1, 1, 1, 1)).astype(np.uint8)
        state, action = rng.normal(size=(length, 8)), rng.uniform(-1, 1, (length, 7))
        made.append(Raw(SENTENCES[number % 2], pictures, state.astype(np.float32), action.astype(np.float32)))
    return made


def write(folder: Path, videos: bool) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    shutil.rmtree(folder, ignore_errors=True)
    shape: dict[str, Any] = {"shape": (SIZE, SIZE, 3), "names": ["height", "width", "channels"]}
    features = {
        f"observation.images.{camera}": {"dtype": "video" if videos else "image", **shape} for camera in CAMERAS
    }
    features["observation.state"] = {
        "dtype": "float32",
        "shape": (8,),
        "names": {"motors": [f"s{n}" for n in range(8)]},
    }
    features["action"] = {"dtype": "float32", "shape": (7,), "names": [f"a{n}" for n in range(7)]}
    dataset = LeRobotDataset.create("pirl/small", RATE, features, root=folder, robot_type="panda", use_videos=videos)
    dataset.meta.update_chunk_settings(data_files_size_in_mb=0.004 if videos else 0.02, video_files_size_in_mb=0.0023)
    for raw in episodes():
        for frame in range(len(raw.action)):
            pictures = {f"observation.images.{camera}": raw.pictures[frame, at] for at, camera in enumerate(CAMERAS)}
            numbers = {"observation.state": raw.state[frame], "action": raw.action[frame]}
            dataset.add_frame({**pictures, **numbers, "task": raw.sentence})
        dataset.save_episode()
    dataset.finalize()


def read(folder: Path) -> dict[str, Any]:
    """Episodes, sentences, and a digest of every column over all frames, pictures as bytes."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("pirl/any", root=folder)
    digests: dict[str, Any] = {}
    sentences = []
    for at in range(len(dataset)):
        item = dataset[at]
        sentences.append(item.pop("task"))
        for name, value in item.items():
            array = value.numpy()
            if name.startswith("observation.images."):
                array = np.round(array.transpose(1, 2, 0) * 255).astype(np.uint8)
            digests.setdefault(name, hashlib.sha256()).update(np.ascontiguousarray(array).tobytes())
    return {
        "episodes": dataset.num_episodes,
        "fps": dataset.fps,
        "sentences": sentences,
        "columns": {name: digest.hexdigest() for name, digest in digests.items()},
    }


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "write":
        write(folder / "images", videos=False)
        write(folder / "videos", videos=True)
    else:
        print(json.dumps(read(folder)))

"""A few successes and failures as small GIFs, re-simulated from the recorded actions at full render quality."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pirl_core.envs.vector.replay import render_episode
from pirl_core.evaluation.evaluate import Outcome
from pirl_core.files import naming, write_json
from pirl_core.params.sections import Env

SIZE = 160
EVERY = 4
FPS = 16
COLOURS = 64


class Filmed(NamedTuple):
    """An episode chosen for a video. label: its split."""

    label: str
    outcome: Outcome


def choose(label: str, outcomes: list[Outcome], per_outcome: int) -> list[Filmed]:
    """The first ``per_outcome`` successes and failures, each from another task as long as there is one."""
    chosen = []
    for success in (True, False):
        seen: dict[str, int] = {}
        ranked: list[tuple[int, int, Outcome]] = []
        for outcome in outcomes:
            if outcome.success == success:
                task = outcome.episode.task
                seen[task] = seen.get(task, 0) + 1
                ranked.append((seen[task], len(ranked), outcome))
        chosen += [Filmed(label, outcome) for _, _, outcome in sorted(ranked, key=lambda row: row[:2])[:per_outcome]]
    return chosen


def quantized(frames: np.ndarray) -> list[Image.Image]:
    """Frames (F, H, W, 3) uint8 with one palette for all. The octree keeps colours of which there is little: a median
    cut, which shares colours out by area, shows a red block blue, and each frame otherwise."""
    palette = Image.fromarray(np.concatenate(frames)).quantize(COLOURS, method=Image.Quantize.FASTOCTREE)
    return [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def write_videos(env: Env, filmed: list[Filmed], folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """GIFs, then ``videos.json``, which lists them with split, task, success and episode seed.

    Passes on the title and the frames (F, SIZE, SIZE, 3) uint8 of each. An episode that ends otherwise when it is
    simulated again, as on a GPU it may, is left out with a word.
    """
    folder.mkdir()
    listed = []
    for number, (label, outcome) in enumerate(filmed):
        frames, success = render_episode(env, outcome.episode, outcome.actions, SIZE, EVERY, fast=False)
        result = "success" if outcome.success else "failure"
        if success != outcome.success:
            print(f"no video of a {result} at {outcome.episode.task}: simulated again it ended otherwise", flush=True)
            continue
        name = f"{number:02d}-{label}-{outcome.episode.task}-{result}.gif"
        name = name.replace(":", "-").replace("/", "-")
        images = quantized(frames)
        with naming(folder / name):
            images[0].save(folder / name, save_all=True, append_images=images[1:], duration=1000 // FPS, loop=0)
        yield name.removesuffix(".gif"), frames
        listed.append(
            {
                "file": name,
                "split": label,
                "task": outcome.episode.task,
                "success": outcome.success,
                "episode": outcome.episode.seed,
            }
        )
    write_json(folder / "videos.json", listed)

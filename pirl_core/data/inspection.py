"""What a dataset holds, and what curate would make of it with given parameters.

Axes: N frames looked at, D numbers of a frame, H W pixels.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from pirl_core.data.curate import choose_episodes, peculiarities
from pirl_core.data.recorded import Listed, Recorded, open_recorded, read_episodes, shared_sentences
from pirl_core.data.recorded.index import ROWS, describe
from pirl_core.data.recorded.steps import ACTIONS, observed
from pirl_core.data.variation import variation_notes
from pirl_core.errors import UserError
from pirl_core.params.file import Run
from pirl_core.params.sections import Env
from pirl_core.types import DemoEpisode

SIZE = 128
"""Of the pictures that are shown, pixels."""
BINS = 24
SHOWN_EPISODES, SHOWN_FRAMES = 4, 3
_KEPT_BY_LEROBOT = (*ROWS, "index", "task_index")


class Number(NamedTuple):
    """One number of state or action. quantiles: 0, 1, 50, 99, 100 %. counts: (BINS,), of bins of one width."""

    name: str
    quantiles: tuple[float, ...]
    counts: np.ndarray


class Picture(NamedTuple):
    """pixels: (SIZE, SIZE, 3) uint8, of any shape squeezed to a square as a policy would see it."""

    column: str
    episode: int
    frame: int
    sentence: str
    pixels: np.ndarray


class Seen(NamedTuple):
    """lengths: frames of each episode. tasks: sentence → how many episodes. looked: at the numbers of so many of them.

    cameras: column → how it is stored. faults: of files that cannot be read, a line each.
    """

    source: str
    version: str
    robot: str
    rate: float
    lengths: list[int]
    tasks: dict[str, int]
    cameras: dict[str, str]
    looked: int
    numbers: list[Number]
    pictures: list[Picture]
    faults: list[str]


def inspect(source: str, revision: str | None, most: int) -> Seen:
    """Looks at the numbers of at most ``most`` episodes, spread over the dataset, and at some of their pictures; of one
    on the hub only their files are downloaded.

    Raises UserError where it is no dataset, or its description is damaged; damage of other files is told in ``faults``.
    """
    data = _described(source, revision)
    chosen = [data.episodes[at] for at in _spread(len(data.episodes), most)]
    blind = _env([])
    faults: list[str] = []
    found = list(_readable(data._replace(videos=frozenset()), blind, chosen, faults))
    numbers: list[Number] = []
    if found:
        numbers = [*_numbers("state", data.facts.state, [one.state for one in found])]
        numbers += _numbers("action", data.facts.action, [one.actions for one in found])
    cameras = [name for name in data.columns if name not in ("state", "action")]
    stored = {name: data.info["features"][name] for name in cameras}
    return Seen(
        source,
        f"LeRobot {data.info['codebase_version']}" if data.layout is None else data.layout.name,
        data.facts.robot,
        data.info["fps"],
        [episode.length for episode in data.episodes],
        dict(Counter(episode.sentence for episode in data.episodes)),
        {name: f"{stored[name]['dtype']} {'×'.join(map(str, stored[name].get('shape', ())))}" for name in cameras},
        len(found),
        numbers,
        list(_pictures(data, chosen, cameras, faults)),
        faults,
    )


def expected(source: str, revision: str | None, run: Run) -> list[str]:
    """What stage curate would say of the dataset with these parameters: a line each, that of a refusal alone."""
    curate = run.curate.model_copy(update={"dataset": source, "dataset_revision": revision})
    try:
        data = open_recorded(source, revision, run.env, curate.columns)
        _, task_index, positions = choose_episodes(run.env, curate, data)
        chosen = [data.episodes[at] for at in positions]
        lines = [f"keeps {len(chosen)} of {np.count_nonzero(task_index >= 0)} episodes of its tasks"]
        shared = shared_sentences([episode.sentence for episode in data.episodes], data.tasks, data.facts)
        lines += peculiarities(data, curate, chosen, shared)
        blind = run.env.model_copy(update={"cameras": []})
        found = list(read_episodes(data._replace(videos=frozenset()), blind, chosen))
    except UserError as error:
        return [f"refused: {error}"]
    if not found:
        return lines
    read = data.facts.state_dim(run.env.object_state)
    lines += variation_notes("state", data.facts.state, np.concatenate([one.state[:, :read] for one in found]))
    return lines + variation_notes("action", data.facts.action, np.concatenate([one.actions for one in found]))


def _described(source: str, revision: str | None) -> Recorded:
    """By its own tasks; all its pictures are cameras, and what begins with action is the action."""
    said = describe(source, revision)
    kinds = {name: str(feature.get("dtype")) for name, feature in said.features.items()}
    shown = [*kinds] if said.layout is None else [*observed(said.layout, kinds), ACTIONS]
    cameras = [name for name in shown if kinds[name] in ("image", "video")]
    numbers = [
        name for name in shown if kinds[name].startswith(("float", "int", "uint")) and name not in _KEPT_BY_LEROBOT
    ]
    action = [name for name in numbers if name.startswith("action")]
    state = [name for name in numbers if name not in action and not name.startswith("next.")]
    if not action or not state:
        raise UserError(f"{source}: no column of numbers beside action, or none called so; it has {', '.join(kinds)}")
    names: dict[str, str | list[str]] = {"state": state, "action": action, **{name: name for name in cameras}}
    return open_recorded(source, revision, _env(cameras), names)


def _env(cameras: list[str]) -> Env:
    return Env(
        benchmark=None, tasks=["all"], shift="none", episode_steps=1, cameras=cameras, image_size=SIZE,
        fast_render=True, object_state=False, keys={}, frame_stack=1, sim_backend="cpu",
    )  # fmt: skip


def _spread(count: int, most: int) -> list[int]:
    """At most so many positions, the first and the last among them."""
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, most)).tolist()})


def _readable(data: Recorded, env: Env, episodes: Iterable[Listed], faults: list[str]) -> Iterator[DemoEpisode]:
    """Those that can be read; for the others ``faults`` gets a line each."""
    left = list(episodes)
    while left:
        read = 0
        try:
            for episode in read_episodes(data, env, left):
                read += 1
                yield episode
        except UserError as error:
            faults.append(str(error))
        left = left[read + 1 :]


def _numbers(part: str, names: Iterable[str], values: list[np.ndarray]) -> Iterator[Number]:
    joined = np.concatenate(values)
    for name, column in zip(names, joined.T, strict=True):
        low, *_, high = quantiles = np.quantile(column, [0, 0.01, 0.5, 0.99, 1]).tolist()
        counts = np.histogram(column, BINS, (low, high if high > low else low + 1))[0]
        yield Number(f"{part} {name}", tuple(quantiles), counts)


def _pictures(data: Recorded, chosen: list[Listed], cameras: list[str], faults: list[str]) -> Iterator[Picture]:
    """Some frames of some episodes, each of another task as long as there is one."""
    first = {episode.sentence: episode for episode in reversed(chosen)}
    shown = sorted([*first.values()][:SHOWN_EPISODES])
    for episode in shown if cameras else ():
        for found in _readable(data, _env(cameras), [episode], faults):
            for frame in _spread(episode.length, SHOWN_FRAMES):
                for at, camera in enumerate(cameras):
                    yield Picture(camera, episode.number, frame, found.instruction, found.images[frame, at])

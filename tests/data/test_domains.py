"""Two domains: a dataset beside a dataset, which changes nothing of the first, and both as one."""

from pathlib import Path

import numpy as np
import pytest

from pirl_core.data.domains import REAL, joined, read_real
from pirl_core.data.lerobot import Pictures, action_chunks, read_dataset, write_dataset
from pirl_core.envs.metaworld.facts import FACTS
from pirl_core.errors import UserError
from pirl_core.params.sections import Real
from pirl_core.readers.text import read_json
from pirl_core.seeds import demo_seed
from tests.data.test_curate import CURATE, ENV, make
from tests.data.test_data import make_episode


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.filterwarnings("ignore:Constant")
def test_a_second_dataset_stands_beside_the_first(tmp_path: Path) -> None:
    """The first is byte for byte what it is alone; the second's episodes start elsewhere, and are those it would have
    as a dataset of its own."""
    env = ENV.model_copy(update={"tasks": ["reach-v3"], "cameras": []})
    alone = CURATE.model_copy(update={"episodes_per_task": 2})
    both = alone.model_copy(update={"real": Real(shift="real", episodes_per_task=3)})
    make(alone, tmp_path / "alone", env, workers=1)
    make(both, tmp_path / "both", env, workers=1)
    found = files(tmp_path / "both")
    assert {name: content for name, content in found.items() if not name.startswith(f"{REAL}/")} == files(
        tmp_path / "alone"
    )
    sim, real = read_dataset(tmp_path / "both", [], True), read_real(tmp_path / "both", env)
    assert len(np.unique(sim.episode)) == 2 and len(np.unique(real.episode)) == 3
    starts = [frames.state[frames.frame == 0, 36:] for frames in (sim, real)]
    assert not any(np.allclose(a, b) for a in starts[0] for b in starts[1])
    origins = read_json(tmp_path / "both" / REAL / "meta/curation.json", "")["episodes"]
    tried = [range(CURATE.max_attempts_per_episode)] * 3
    for number, (origin, attempts) in enumerate(zip(origins, tried, strict=True)):
        seeds = [demo_seed(CURATE.seed, "reach-v3", number, attempt, "real") for attempt in attempts]
        assert origin["env_seed"] == seeds[origin["failed_attempts"]]
    with pytest.raises(UserError, match=r"curate\.real was null"):
        read_real(tmp_path / "alone", env)


def test_joined_frames_are_both(tmp_path: Path) -> None:
    """Pictures stay in their files; chunks end where an episode does, at the border too; sentences are matched."""
    rng = np.random.default_rng(0)
    parts = []
    for name, tasks in (("one", (0, 1)), ("other", (1, 2, 1))):
        (tmp_path / name).mkdir()
        episodes = [make_episode(rng, task, 4 + task, cameras=1) for task in tasks]
        write_dataset(tmp_path / name, episodes, ["corner2"], FACTS)
        parts.append(read_dataset(tmp_path / name, ["corner2"], object_state=True))
    both = joined(*parts)
    assert isinstance(both.images, Pictures)
    assert np.array_equal(np.asarray(both.images), np.concatenate([np.asarray(part.images) for part in parts]))
    assert both.instructions == [text for part in parts for text in part.instructions]
    assert len(set(both.tasks)) == len(both.tasks) == 3
    first = len(parts[0].state)
    chunks = [action_chunks(part, 6) for part in (both, *parts)]
    for whole, one, other in zip(*chunks, strict=True):
        offset = first if whole.dtype != bool else 0
        assert np.array_equal(whole, np.concatenate([one, other + offset if offset else other]))
    with pytest.raises(UserError, match="two domains differ"):
        joined(parts[0], parts[1]._replace(actions=parts[1].actions[:, :2]))

"""Files of D4RL, OGBench, Minari and robomimic: what went in comes out, or one line says what is wrong with which."""

import json
import re
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pirl_core.commands.cli import main as pirl
from pirl_core.data.lerobot import DemoEpisode, read_dataset
from pirl_core.data.recorded import Recorded, open_recorded, read_episodes
from pirl_core.errors import UserError
from pirl_core.params.preset import preset_values
from pirl_core.params.sections import Env
from pirl_core.policy.folder import load_policy
from pirl_core.readers.arrays import open_arrays
from pirl_core.stages import curate, sft
from pirl_core.stages.cli import stage_main
from tests.data.steps_files import d4rl, flat, minari, ogbench, robomimic
from tests.data.with_minari import episodes

WRITTEN = Path(__file__).parent / "minari/lab"
HOPPER = Env(
    benchmark="gymnasium", tasks=["Hopper-v5"], shift="none", episode_steps=9, cameras=[], image_size=32,
    fast_render=True, object_state=True, keys={}, frame_stack=1, sim_backend="cpu",
)  # fmt: skip
ALONE = HOPPER.model_copy(update={"benchmark": None, "tasks": ["all"], "object_state": False})
Columns = dict[str, str | list[str]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(source: object, columns: Columns | None = None, env: Env = HOPPER) -> tuple[Recorded, list[DemoEpisode]]:
    data = open_recorded(str(source), None, env, columns or {})
    return data, list(read_episodes(data, env, data.episodes))


def written(kind: str) -> tuple[Path, Columns]:
    """The same three episodes, as each layout has them, and what has to be said of it."""
    match kind:
        case "D4RL":
            return d4rl(Path("hopper.hdf5"), flat(episodes(), 2)), {}
        case "OGBench":
            return ogbench(Path("hopper.npz"), flat(episodes(), 2)), {}
        case "Minari":
            return minari(Path("hop-v0"), episodes()), {}
        case "Minari, in parts":
            return minari(Path("hop-v0"), episodes(), True), {"state": ["observations/b", "observations/a"]}
        case "Minari's own":
            return WRITTEN / "vector-v0", {}
        case "Minari's own, in parts":
            return WRITTEN / "dict-v0/data", {"state": ["observations/b", "observations/a"]}
        case _:
            return robomimic(Path("low_dim.hdf5"), episodes(), (0, 2, 10)), {"state": ["obs/b", "obs/a"]}


KINDS = ["D4RL", "OGBench", "Minari", "Minari, in parts", "Minari's own", "Minari's own, in parts", "robomimic"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_went_in_comes_out(kind: str) -> None:
    """Numbers to the bit, rewards where the layout has them; the observation after the last action is no frame."""
    data, found = read(*written(kind))
    assert data.layout is not None and data.layout.name == kind.split("'")[0].split(",")[0]
    for episode, raw in zip(found, episodes(), strict=True):
        assert np.array_equal(episode.state, raw.observations[:-1]) and np.array_equal(episode.actions, raw.actions)
        assert np.array_equal(episode.rewards, 0 * raw.rewards if kind == "OGBench" else raw.rewards)
        assert (episode.task, episode.instruction) == ("Hopper-v5", "hopper") and not episode.success.any()
    assert [episode.number for episode in data.episodes] == ([0, 2, 10] if kind == "robomimic" else [0, 1, 2])
    beyond = kind in ("D4RL", "OGBench")
    assert [*data.notes] == [f"the last 2 of 13 steps of {data.folder} have no end and are left out"] * beyond


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_steps_are_cut_as_d4rls_own_reader_cuts_them(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """``sequence_dataset``, step by step; and of an OGBench file the transitions that ``load_dataset`` makes of it."""
    count = data.draw(st.integers(1, 12))
    flags = [np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count))) for _ in range(2)]
    steps = {"observations": np.arange(11.0 * count).reshape(count, 11), "actions": np.zeros((count, 3)),
             "rewards": np.arange(float(count)), "terminals": flags[0], "timeouts": flags[1]}  # fmt: skip
    wanted: list[list[int]] = [[]]
    for row in range(count):
        wanted[-1].append(row)
        if flags[0][row] or flags[1][row]:
            wanted.append([])
    del wanted[-1]
    folder = tmp_path_factory.mktemp("cut")
    path, other = d4rl(folder / "a.hdf5", steps), ogbench(folder / "a.npz", steps)
    if not wanted:
        for source in (path, other):
            with pytest.raises(UserError, match=r"no step of \d+ has an end: terminals and timeouts are 0 or missing"):
                read(source)
        return
    assert [episode.rewards.tolist() for episode in read(path)[1]] == wanted
    found = read(other)[1]
    ended = flags[0] | flags[1]
    last = np.flatnonzero(ended)[-1] + 1
    observations = steps["observations"][:last]
    follows = np.concatenate([[False], ~ended[: last - 1]])
    for rows, mine in ((~ended[:last], slice(0, -1)), (follows, slice(1, None))):
        assert np.array_equal(np.concatenate([episode.state[mine] for episode in found]), observations[rows])


def test_without_a_benchmark_the_file_tells_what_it_can() -> None:
    """Its environment is the sentence, its rate the dataset's; pictures are cameras."""
    robomimic(Path("image.hdf5"), episodes(), (0, 1, 2), pictures=48)
    env = ALONE.model_copy(update={"cameras": ["front"]})
    data, found = read("image.hdf5", {"state": ["obs/b"], "front": "obs/front_image"}, env)
    assert (data.facts.rate, [*data.facts.tasks]) == (20, ["nuthop"])
    assert data.facts.state == ("obs/b.0", "obs/b.1")
    for episode, raw in zip(found, episodes(), strict=True):
        length = len(raw.rewards)
        assert episode.images.shape == (length, 1, 32, 32, 3)
        assert np.array_equal(episode.images[:, 0, 0, 0, 0], 9 * np.arange(length))
        assert episode.success.tolist() == [False] * (length - 1) + [True]
        assert np.array_equal(episode.rewards, raw.rewards)
    assert [*read(minari(Path("hop"), episodes()), env=ALONE)[0].facts.tasks] == ["lab/hop-v0"]
    assert [*read(d4rl(Path("hopper.hdf5"), flat(episodes())), env=ALONE)[0].facts.tasks] == ["hopper"]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), packed=st.booleans(), by_columns=st.booleans())
def test_rows_of_an_npz_are_numpys(
    seed: int, packed: bool, by_columns: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any rows, in any order, of arrays of either order."""
    rng = np.random.default_rng(seed)
    whole = rng.standard_normal((rng.integers(1, 20), *rng.integers(1, 4, rng.integers(0, 3)))).astype("<f4")
    path = tmp_path_factory.mktemp("npz") / "it.npz"
    save = np.savez_compressed if packed else np.savez
    save(path, it=np.asfortranarray(whole) if by_columns else whole, other=np.arange(3))
    with open_arrays(path, "") as found:
        array = found.find("it")
        assert array is not None and array.shape == whole.shape and array.dtype == whole.dtype
        for start, stop in rng.integers(0, 21, (6, 2)).tolist():
            assert np.array_equal(array[start:stop], whole[start:stop])


@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_a_large_file_is_not_held(kind: str) -> None:
    count, width = 40_000, 200
    ends = np.arange(count) % 100 == 99
    steps = {"observations": np.zeros((count, width), np.float32), "actions": np.zeros((count, 3), np.float32)}
    if kind == "hdf5":
        with h5py.File("large.hdf5", "w") as file:
            for name, values in (steps | {"terminals": ends, "timeouts": ends}).items():
                file.create_dataset(name, data=values, chunks=(100, *values.shape[1:]), compression="gzip")
    else:
        np.savez_compressed("large.npz", **steps, terminals=ends)
    assert steps.pop("observations").nbytes == 32_000_000
    data = open_recorded(f"large.{kind}", None, ALONE)
    tracemalloc.start()
    frames = sum(len(episode.actions) for episode in read_episodes(data, ALONE, data.episodes))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frames == count and peak < 8_000_000


def test_what_is_left_open_is_asked_for() -> None:
    path, _ = written("robomimic")
    with pytest.raises(UserError, match=r"no column 'obs'; it has .*obs/a, obs/b, .*curate\.columns\.state$"):
        read(path)
    with pytest.raises(UserError, match=r"curate\.columns: unknown .*sentence"):
        read(path, {"sentence": "obs/a"})
    with pytest.raises(UserError, match=r"curate\.dataset_revision = 'main' needs a hub id, but low_dim\.hdf5 is a f"):
        open_recorded(str(path), "main", HOPPER)
    with pytest.raises(UserError, match=r"shows one task and does not say which of env\.tasks; give each task an exp"):
        read(written("D4RL")[0], env=HOPPER.model_copy(update={"tasks": ["Hopper-v5", "Hopper-v4"]}))


def parameters(dataset: str) -> None:
    """Of the scale reinflow, the smallest: a flow policy that learns from numbers."""
    params = preset_values("reinflow")
    params["curate"].update(dataset=dataset, episodes_per_task=9, keep_episodes=[0, 2], expert_return=None)
    params["sft"].update(steps=3, batch_size=8)
    params["policy"].update(horizon=2, replan=2)
    Path("params.yaml").write_text(yaml.safe_dump(params))


@pytest.mark.parametrize("kind", ["D4RL", "OGBench", "Minari"])
def test_a_policy_learns_from_it(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By the real stages: a LeRobot dataset with the rewards, then weights."""
    parameters(str(written(kind)[0]))
    assert stage_main("curate", curate.run, ["--experiment", "hopper"]) == 0
    frames = read_dataset(Path("outputs/curate/hopper"), [], object_state=True)
    raws = [episodes()[0], episodes()[2]]
    assert np.array_equal(frames.state, np.concatenate([raw.observations[:-1] for raw in raws]))
    assert np.array_equal(frames.actions, np.concatenate([raw.actions for raw in raws]))
    noted = json.loads(Path("outputs/curate/hopper/meta/curation.json").read_text())
    assert (noted["episodes_available"], noted["episodes_kept"]) == (3, 2)
    assert any("have no end and are left out" in note for note in noted["notes"]) == (kind != "Minari")
    assert stage_main("sft", sft.run, ["--experiment", "hopper", "--seed", "0"]) == 0
    assert load_policy(Path("outputs/policy/hopper-sft-0")).backbone.shape.family == "mlp"


def test_inspection_tells_what_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    path = robomimic(Path("image.hdf5"), episodes(), (0, 1, 2), pictures=48)
    parameters(str(path))
    assert pirl(["inspect", str(path)]) == 0
    said = capsys.readouterr().out
    assert "image.hdf5: robomimic, robot unknown, 20 frames a second. 3 episodes of 1 tasks; 11 frames, 1 to 6" in said
    assert "camera obs/front_image: image 48×48×3" in said and "hopper: refused: " in said
    assert re.search(r"state obs/a\.8 .*\n.*action actions\.2|state obs/b\.1", said)

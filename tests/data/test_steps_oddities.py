"""Files of steps with an oddity: one line that names the file, what is wrong in it, and a remedy."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pirl_core.errors import UserError
from pirl_core.readers import arrays as reading
from pirl_core.stages import curate
from pirl_core.stages.cli import stage_main
from tests.data.steps_files import d4rl, flat, minari, ogbench
from tests.data.test_steps import parameters, read
from tests.data.with_minari import episodes


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def spoilt(change: Callable[[dict[str, Any]], Any]) -> Callable[[], str]:
    """A D4RL file of which ``change`` has spoilt the arrays."""

    def make() -> str:
        steps: dict[str, Any] = flat(episodes())
        change(steps)
        return str(d4rl(Path("odd.hdf5"), steps))

    return make


def cut_short() -> str:
    path = d4rl(Path("odd.hdf5"), flat(episodes()))
    path.write_bytes(path.read_bytes()[:-3000])
    return str(path)


def cut_short_npz() -> str:
    path = ogbench(Path("odd.npz"), flat(episodes()))
    path.write_bytes(path.read_bytes()[:-900])
    return str(path)


def flipped() -> str:
    """Bits within the packed numbers of an npz."""
    path = ogbench(Path("odd.npz"), flat(episodes()))
    content = bytearray(path.read_bytes())
    content[300:320] = bytes(20)
    path.write_bytes(content)
    return str(path)


def pickled(name: str) -> Callable[[], str]:
    def make() -> str:
        steps = flat(episodes())
        arrays = {"observations": steps["observations"], "actions": steps["actions"], "terminals": steps["terminals"]}
        np.savez("odd.npz", **arrays | {name: np.array([{}] * len(steps["actions"]), object)})
        return "odd.npz"

    return make


def a_pickle() -> str:
    Path("odd.npz").write_bytes(pickle.dumps([{"observations": [1]}]))
    return "odd.npz"


def changed(change: Callable[[h5py.File], Any]) -> Callable[[], str]:
    """A Minari dataset of which ``change`` has spoilt the file."""

    def make() -> str:
        with h5py.File(minari(Path("odd"), episodes()) / "data/main_data.hdf5", "a") as file:
            change(file)
        return "odd"

    return make


def replaced(name: str, values: object) -> Callable[[], str]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = values

    return changed(change)


def a_hole() -> str:
    """It claims more steps than any disk has."""
    with h5py.File("odd.hdf5", "w") as file:
        for name, shape in (("observations", (11,)), ("actions", (3,)), ("terminals", ())):
            file.create_dataset(name, (2**50, *shape), "f4", chunks=(1000, *shape))
    return "odd.hdf5"


def elsewhere(file: h5py.File) -> None:
    with h5py.File("other.hdf5", "w") as other:
        other["it"] = np.zeros((7, 11))
    del file["episode_2/observations"]
    file["episode_2/observations"] = h5py.ExternalLink(str(Path("other.hdf5").absolute()), "it")


def raw_bytes(file: h5py.File) -> None:
    Path("secret").write_bytes(bytes(8 * 77))
    del file["episode_2/observations"]
    where = [(str(Path("secret").absolute()), 0, 8 * 77)]
    file["episode_2"].create_dataset("observations", (7, 11), "f8", external=where)


def arrow() -> str:
    (folder := Path("odd/data")).mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps({"data_format": "arrow"}))
    return "odd"


NAN = np.where(np.arange(77).reshape(7, 11) == 25, np.nan, 0.0)
MAIN = r"odd/data/main_data\.hdf5"
ODD = {
    "cut short": (cut_short, r"^odd\.hdf5: a damaged HDF5 file \(.*(truncated|eof).*\); fetch it again$"),
    "an npz cut short": (cut_short_npz, r"^odd\.npz: damaged or no zip file \(.*\); fetch it again$"),
    "flipped bits": (flipped, r"^odd\.npz: damaged or no zip file \(.*\); fetch it again$"),
    "a pickle": (a_pickle, r"^odd\.npz: neither HDF5 nor npz, and nothing else is read, a pickle least of all"),
    "objects": (
        pickled("observations"),
        r"^curate\.dataset: 'observations' of odd\.npz holds object, not numbers; store it as float32$",
    ),
    "objects as ends": (pickled("terminals"), r"^odd\.npz: 'terminals' holds object, not numbers; store it as f"),
    "no such file": (lambda: "data/odd.hdf5", r"^curate\.dataset: data/odd\.hdf5: no such file; check the path$"),
    "no actions": (
        spoilt(lambda steps: steps.pop("actions")),
        r"^curate\.dataset: odd\.hdf5 cannot be used \(no key 'actions'; it has .*observations.*\); fetch it again$",
    ),
    "no observations": (
        spoilt(lambda steps: steps.pop("observations")),
        r"odd\.hdf5 has no column 'observations'; it has actions, .*curate\.columns\.state$",
    ),
    "no terminals": (spoilt(lambda steps: steps.pop("terminals")), r"odd\.hdf5 .*no key 'terminals'; it has actions,"),
    "a hole": (a_hole, r"odd\.hdf5 .*'actions' claims 1,125,899,906,842,624 rows\); fetch it again$"),
    "another file": (
        lambda: str(d4rl(Path("odd.hdf5"), {"weights": np.zeros(3)})),
        r"odd\.hdf5 .*it holds infos, metadata, weights; D4RL and OGBench have .*; give one of these$",
    ),
    "no end": (
        spoilt(lambda steps: steps.update(terminals=np.zeros(11), timeouts=np.zeros(11))),
        r"odd\.hdf5 .*no step of 11 has an end: terminals and timeouts are 0 or missing\); set timeouts to 1 at",
    ),
    "fewer rows": (
        spoilt(lambda steps: steps.update(observations=steps["observations"][:-1])),
        r"odd\.hdf5 .*'observations' has 10 rows, 'actions' 11\); fetch it again$",
    ),
    "fewer ends": (
        spoilt(lambda steps: steps.update(timeouts=steps["timeouts"][:-1])),
        r"odd\.hdf5 .*'timeouts' has 10 rows, 'actions' 11\)",
    ),
    "nan among the ends": (
        spoilt(lambda steps: steps.update(timeouts=np.full(11, np.nan))),
        r"odd\.hdf5 .*'timeouts' is nan at step 0\)",
    ),
    "words": (
        spoilt(lambda steps: steps.update(rewards=np.array([b"high"] * 11))),
        r"^odd\.hdf5: 'rewards' holds \|S4, not numbers; store it as float32$",
    ),
    "other width": (
        spoilt(lambda steps: steps.update(observations=np.zeros((11, 17)))),
        r"^curate\.dataset: 'observations' of odd\.hdf5 is of shape \[17\]; Gymnasium has 11 state numbers; name "
        r"others in curate\.columns\.state, or give another dataset$",
    ),
    "other actions": (
        spoilt(lambda steps: steps.update(actions=np.zeros(11))),
        r"^curate\.dataset: 'actions' of odd\.hdf5 is of shape \[\]; Gymnasium has 3 action numbers",
    ),
    "nan": (
        replaced("episode_2/observations", NAN),
        MAIN + r" .*'observations' is nan at frame 2, number 3 \(episode 2\)\); .*curate\.keep_episodes",
    ),
    "nan reward": (
        replaced("episode_0/rewards", [0, np.inf, 0, 0]),
        MAIN + r" .*'rewards' is inf at frame 1 \(episode 0\)\); .*curate\.keep_episodes",
    ),
    "an episode of another width": (
        replaced("episode_2/observations", np.zeros((7, 12))),
        MAIN + r" .*'observations' holds 12 numbers, Gymnasium's state 11\)",
    ),
    "an episode without actions": (
        changed(lambda file: file["episode_1"].pop("actions")),
        MAIN + r" .*no key 'episode_1/actions'; it has .*rewards, ",
    ),
    "an episode of no step": (
        replaced("episode_1/actions", np.zeros((0, 3))),
        MAIN + r" .*'episode_1/actions' has no rows\); take that episode out$",
    ),
    "rows by link": (
        changed(elsewhere),
        MAIN + r": a damaged HDF5 file \(.episode_2/observations. lies in another file",
    ),
    "rows elsewhere": (changed(raw_bytes), MAIN + r": .*'episode_2/observations' lies in another file"),
    "arrow": (arrow, r"^curate\.dataset: odd/data has no main_data\.hdf5, its data_format is arrow; make it anew in"),
}


@pytest.mark.parametrize("how", ODD)
def test_what_is_odd_is_told_in_a_line(how: str) -> None:
    make, said = ODD[how]
    with pytest.raises(UserError) as refusal:
        read(make())
    assert re.search(said, str(refusal.value)) and "\n" not in str(refusal.value), str(refusal.value)


def test_more_rows_at_once_than_a_file_of_steps_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a hole that claims to be an episode."""
    monkeypatch.setattr(reading, "MOST_BYTES", 100)
    path = d4rl(Path("odd.hdf5"), flat(episodes()))
    with pytest.raises(UserError, match=r"^odd\.hdf5: 4 rows of 'observations' are 176 bytes; cut them into episodes$"):
        read(path)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    path = d4rl(Path("it.hdf5"), flat(episodes()))
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UserError, match=r"^it\.hdf5: package h5py is not installed; pip install 'pirl_core\[hdf5\]'$"):
        read(path)
    assert len(read(ogbench(Path("it.npz"), flat(episodes())))[1]) == 3


def test_a_stage_ends_with_two_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    parameters(spoilt(lambda steps: steps.update(actions=np.full((11, 3), np.nan)))())
    assert stage_main("curate", curate.run, ["--experiment", "hopper"]) == 2
    said = capsys.readouterr().err
    assert re.search(r"odd\.hdf5 .*'actions' is nan at frame 0, number 0 \(episode 0\)", said) and said.count("\n") == 1
    assert not Path("outputs/curate/hopper").exists()

"""What is known of LIBERO without its assets: tasks, scenes, stored states, as the package has them."""

import os
import pickle
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pirl_core.envs.assets import ASSETS
from pirl_core.envs.libero.facts import FACTS, FILES, STORED_STATES
from pirl_core.envs.libero.files import _no_prompt, problems, read_states, root, scene_file, stored_states
from pirl_core.errors import UserError
from pirl_core.evaluation.evaluate import split_episodes
from pirl_core.params.file import resolve
from pirl_core.params.preset import load_preset
from tests.envs.libero.libero_assets import needs_package

SUITES = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}


def registry() -> dict[str, Any]:
    with _no_prompt():
        from libero.libero.benchmark import task_maps
    return dict(task_maps)


def test_counts() -> None:
    assert Counter(task.group for task in FACTS.tasks.values()) == SUITES
    assert FACTS.groups == tuple(SUITES)
    assert FACTS.tasks["libero_object_4"].sentences == ("pick up the ketchup and place it in the basket",)


@needs_package
def test_tasks_are_the_registrys() -> None:
    for suite, tasks in registry().items():
        for index, task in enumerate(tasks.values()):
            assert FILES[f"{suite}_{index}"] == (suite, task.name)
            assert FACTS.tasks[f"{suite}_{index}"].sentences == (task.language,)
    assert sum(map(len, registry().values())) == len(FACTS.tasks)


@needs_package
def test_scenes_parse_and_their_joints_fit_the_stored_states() -> None:
    """Each object has 7 positions and 6 velocities, each door or knob one of both, arm and fingers nine."""
    from libero.libero.envs.bddl_utils import robosuite_parse_problem

    fullest = 0
    for task in FACTS.tasks:
        problem = robosuite_parse_problem(str(scene_file(task)))
        objects = sum(map(len, problem["objects"].values()))
        count, width = stored_states(task).shape
        hinges, rest = divmod(width - 1 - 18 - 13 * objects, 2)
        assert (count, rest) == (STORED_STATES, 0) and 0 <= hinges <= 5
        assert problem["goal_state"]
        fullest = max(fullest, 7 * objects + hinges)
    assert len(FACTS.state) + fullest == FACTS.object_state


@needs_package
def test_stored_states_are_those_that_torch_reads() -> None:
    rebuild: Any = np.zeros(0).__reduce__()[0]
    for task in ("libero_spatial_4", "libero_90_17"):
        suite, name = FILES[task]
        path = root() / "init_files" / suite / f"{name}.pruned_init"
        with torch.serialization.safe_globals([rebuild, np.ndarray, np.dtype, np.dtypes.Float64DType]):
            np.testing.assert_array_equal(stored_states(task), torch.load(path, weights_only=True))


@pytest.mark.parametrize(("scale", "experiment", "number"), [("paper", "libero_10_pi05", 50), ("libero", "libero", 30)])
def test_stored_states_are_played_once_and_never_trained_on(scale: str, experiment: str, number: int) -> None:
    """At paper scale all 50 of each task."""
    run = resolve(load_preset(scale), experiment)
    played = split_episodes(run.env, run.evaluate, "id")
    starts = Counter((episode.task, episode.shift, episode.number) for episode in played)
    assert starts == {(task, "stored", state): 1 for task in run.env.tasks for state in range(number)}
    assert number <= STORED_STATES and run.env.shift == "none"


class Attack:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_a_state_file_runs_nothing(tmp_path: Path) -> None:
    path, mark = tmp_path / "evil.pruned_init", tmp_path / "ran"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Attack(f"touch {mark}"), protocol=2))
    with pytest.raises(UserError, match=r"evil.*posix\.system"):
        read_states(path)
    assert not mark.exists()
    path.write_bytes(b"no zip")
    with pytest.raises(UserError, match="no zip file"):
        read_states(path)


@needs_package
def test_an_incomplete_asset_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIRL_LIBERO_ASSETS", str(tmp_path))
    problems.cache_clear()
    with pytest.raises(UserError, match=r"PIRL_LIBERO_ASSETS.*lacks articulated_obj.*assets fetch libero"):
        problems()


@needs_package
def test_import_asks_nothing_and_leaves_no_file(tmp_path: Path) -> None:
    """In a fresh process without home, without input: no prompt, no log in /tmp, no torch."""
    for name in ASSETS["libero"].parts[0].holds:
        (tmp_path / "assets" / name).mkdir(parents=True)
    code = (
        "import logging, sys; logging.FileHandler = None; from pirl_core.envs.libero.files import problems;"
        "assert len(problems()) == 6; assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "PIRL_LIBERO_ASSETS": str(tmp_path / "assets")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    assert not (tmp_path / ".libero").exists()

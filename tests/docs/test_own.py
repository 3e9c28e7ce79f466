"""The pages for users with data, an environment or a benchmark of their own: what they tell to write runs."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks.serving import listening
from pirl_core.commands import cli
from pirl_core.envs.opening import expert_of, open_simulator, settings_of
from pirl_core.params.file import load_params, resolve
from pirl_core.types import Episode
from tests import ROOT
from tests.docs.blocks import put_in, write_files
from tests.stages.test_end_to_end import command

OWN, BENCHMARK = ROOT / "docs/own.md", ROOT / "docs/own_benchmark.md"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which modules are found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}")
    for name in ("PIRL_THREADS", "PIRL_WORKERS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    assert cli.main(["init", "smoke"]) == 0
    return tmp_path


def run(*words: str, **more: str) -> str:
    done = subprocess.run(words, env=os.environ | more, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pipeline(experiment: str, methods: list[str]) -> dict[str, pd.DataFrame]:
    """All stages up to the report; the episodes of each evaluation."""
    run(sys.executable, "-m", "pirl_core.stages.sources")
    stages = [("curate", "", ""), ("sft", "0", ""), *(("rl", "0", method) for method in methods)]
    for stage, seed, method in [*stages, *(("evaluate", "0", method) for method in ("sft", *methods)), ("report",) * 3]:
        words = command(stage, "" if stage == "report" else seed, "" if stage == "report" else method, experiment)
        run(*words)
    folders = {method: Path(f"outputs/evaluate/{experiment}-{method}-0") for method in ("sft", *methods)}
    return {method: pd.read_parquet(folder / "episodes.parquet") for method, folder in folders.items()}


def lessen(changes: dict[str, dict[str, Any]]) -> None:
    """Sizes for a test, in the only experiment of params.yaml."""
    content = yaml.safe_load(Path("params.yaml").read_text())
    [experiment] = content["experiments"].values()
    for section, values in changes.items():
        experiment[section].update(values)
    content["policies"] = ["sft", "flow_sde"]
    content["run"]["validation_videos"] = 0
    Path("params.yaml").write_text(yaml.safe_dump(content))


def test_own_benchmark_plays_what_its_script_shows(here: Path) -> None:
    """Its facts fit params.yaml, equal episodes start alike, and the script solves both tasks under every start."""
    write_files(BENCHMARK, here)
    put_in(BENCHMARK, here / "params.yaml")
    assert cli.main(["scale"]) == 0
    env = resolve(load_params(here / "params.yaml"), "drawer").env
    for task, shift in (("open", "none"), ("close", "dark")):
        episode = Episode(task, 5, shift)
        world: Any = open_simulator(settings_of(env), episode)
        world.reset(episode)
        first, seen = world.state(), world.images()
        ended = False

        def act(action: np.ndarray, world: Any = world) -> None:
            nonlocal ended
            _, solved, late = world.step(action)
            ended = solved
            if solved or late:
                raise StopIteration

        with pytest.raises(StopIteration):
            expert_of(str(env.benchmark))(world, act)
        assert ended and seen.shape == (1, 32, 32, 3) and len(first) == 1
        world.reset(episode)
        assert np.array_equal(world.state(), first) and np.array_equal(world.images(), seen)


@pytest.mark.slow
def test_own_benchmark_goes_from_demonstrations_to_the_report(here: Path) -> None:
    write_files(BENCHMARK, here)
    put_in(BENCHMARK, here / "params.yaml")
    lessen({"sft": {"steps": 5}, "rl": {"iterations": 1, "num_envs": 4, "episodes_per_iteration": 4}})
    tables = pipeline("drawer", ["flow_sde"])
    for table in tables.values():
        assert table.groupby(["split", "task"]).size().tolist() == [4] * 4
    assert "| drawer | nano π0 | OOD dark |" in (here / "results/smoke/report.md").read_text()


@pytest.mark.slow
def test_own_data_and_environment_end_in_a_client_s_hands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Dataset, SFT, RL, evaluations, openpi's own client; and the served policy plays the evaluation's episodes."""
    pytest.importorskip("openpi_client.websocket_client_policy", reason="openpi-client is not installed")
    write_files(OWN, here)
    run(sys.executable, "show.py")
    put_in(OWN, here / "params.yaml")
    lessen(
        {
            "sft": {"steps": 5, "batch_size": 8},
            "rl": {"iterations": 1, "num_envs": 4, "episodes_per_iteration": 4, "validate_every": 1},
            "evaluate": {"splits": {"id": {"tasks": None, "shift": "none", "episodes_per_task": 4}}, "num_envs": 1},
        }
    )
    assert cli.main(["scale"]) == 0 and cli.main(["inspect", "my_demos"]) == 0
    assert "keeps 100 of 100 episodes" in capsys.readouterr().out
    own = pipeline("reach", ["flow_sde"])["flow_sde"]
    policy = Path("outputs/policy/reach-flow_sde-0")
    with listening(policy, "--map", "front=observation/image") as (_, port):
        drive = Path("drive.py").read_text()
        Path("drive.py").write_text(drive.replace("8000", str(port)))
        assert re.fullmatch(r"\d+ of 10 solved\n", run(sys.executable, "drive.py"))
        words = ["--map", "front=observation/image", "--name", "again", "--timeout", "60"]
        assert cli.main(["evaluate", "--server", f"ws://127.0.0.1:{port}", *words]) == 0
    served = pd.read_parquet("outputs/evaluate/reach-again-0/episodes.parquet")
    same = ["split", "task", "episode", "env_seed", "success", "steps", "reward"]
    pd.testing.assert_frame_equal(served[same], own[same])

"""``pirl evaluate --server`` in an environment that Gymnasium has registered, with a policy of ours behind it."""

import copy
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from pirl_core.commands import cli
from pirl_core.params.preset import preset_values
from pirl_core.params.sections import Env
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.policy.interface import interface_of
from pirl_core.serving import openpi, websocket
from pirl_core.stages import evaluate
from pirl_core.stages.cli import stage_main
from tests.envs.gymnasium.test_gymnasium import KEYS, OWN, TASK
from tests.serving.running import policy_of, running
from tests.worlds import small_policy

SPLIT = {"tasks": None, "shift": "none", "episodes_per_task": 4}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with the package of the environment in it, as a user has it."""
    (tmp_path / "own_worlds.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("PIRL_THREADS", "PIRL_WORKERS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    return tmp_path


@pytest.mark.parametrize("counted", ["success", "return"])
def test_its_episodes_are_those_of_stage_evaluate(counted: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures in a Dict, and success or the return; what the benchmark does not state is said."""
    content: dict[str, Any] = copy.deepcopy(preset_values("smoke"))
    keys = {key: value for key, value in KEYS.items() if counted == "success" or key != "success"}
    content["env"].update(benchmark="gymnasium", tasks=[TASK], keys=keys, cameras=["front"], episode_steps=9)
    content["env"].update(image_size=32, object_state=True)
    content["evaluate"].update(num_envs=1, splits={"id": SPLIT}, videos_per_outcome=0, record="none")
    Path("params.yaml").write_text(yaml.safe_dump(content))
    torch.set_num_threads(1)
    flow = small_policy(horizon=4, replan=2, state_dim=3, action_dim=1)
    flow.interface = interface_of(Env(**content["env"]), 3, 1, ["Reach"])
    (folder := Path("outputs/policy/metaworld-sft-0")).mkdir(parents=True)
    save_policy(flow, folder)
    assert stage_main("evaluate", evaluate.run, ["--experiment", "metaworld", "--method", "sft", "--seed", "0"]) == 0
    own = pd.read_parquet("outputs/evaluate/metaworld-sft-0/episodes.parquet")
    assert own["reward"].nunique() == 4 and own["success"].isna().all() == (counted == "return")
    with running(policy_of(load_policy(folder)), openpi, websocket) as (_, port):
        assert cli.main(["evaluate", "--server", f"ws://127.0.0.1:{port}", "--timeout", "20"]) == 0
    table = pd.read_parquet("outputs/evaluate/metaworld-served-0/episodes.parquet")
    same = ["split", "task", "episode", "env_seed", "success", "steps", "reward"]
    pd.testing.assert_frame_equal(table[same], own[same])
    assert json.loads(Path("outputs/evaluate/metaworld-served-0/served.json").read_text())["noise"] == "episode"
    said = capsys.readouterr().out
    assert "the benchmark states no conventions" in said and "front                at observation/front" in said

"""Evaluations with exploration noise: the same episodes and noise before and after RL, and nothing else moves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from pirl_core.envs.vector import slots as vector
from pirl_core.errors import UserError
from pirl_core.params.sections import EXPLORING, EXPLORING_BEFORE, Evaluate, Rl, exploring_labels
from pirl_core.policy.exploration import load_exploration
from pirl_core.policy.folder import load_policy
from pirl_core.rl.train import noise_at
from pirl_core.stages import evaluate, rl
from tests.params.probes import BASE, BLIND, job, small_start
from tests.params.walk import Walk

START, AFTER = Path("outputs/policy/e-sft-0"), Path("outputs/policy/e-m-0")
LEARNED = {"noise_rule": "learned", "mdp": "one_layer", "noise_schedule": "reinflow", "keep": "last"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vector, "VectorEnv", Walk)
    torch.set_num_threads(1)
    small_start("e-sft-0")


def evaluated(exploring: int, num_envs: int = 4) -> pd.DataFrame:
    values = BASE["Evaluate"] | {"exploring_episodes_per_task": exploring, "num_envs": num_envs}
    evaluate.run(job("evaluate", env=BLIND, evaluate=Evaluate.model_validate(values)))
    return pd.read_parquet("outputs/evaluate/e-m-0/episodes.parquet").drop(columns="model")


def test_exploring_rows_pair_with_the_others(tmp_path: Path) -> None:
    section = Rl.model_validate(BASE["Rl"] | LEARNED)
    rl.run(job("rl", env=BLIND, rl=section))
    plain, both = evaluated(0), evaluated(2)
    parts = {split: part.reset_index(drop=True) for split, part in both.groupby("split")}
    assert list(parts) == ["id", EXPLORING, EXPLORING_BEFORE]
    pd.testing.assert_frame_equal(parts["id"], plain)
    first = plain[plain["episode"] < 2]
    for label in (EXPLORING, EXPLORING_BEFORE):
        assert parts[label]["env_seed"].tolist() == first["env_seed"].tolist()
        assert not (parts[label]["reward"].to_numpy() == first["reward"].to_numpy()).any()
    assert not (parts[EXPLORING]["reward"] == parts[EXPLORING_BEFORE]["reward"]).any()
    # Nobody explores by another's noise: what is beside an episode, and how many are, changes nothing.
    pd.testing.assert_frame_equal(evaluated(2, num_envs=1), both)


def test_the_folder_says_how_rl_explored() -> None:
    section = Rl.model_validate(BASE["Rl"] | LEARNED)
    rl.run(job("rl", env=BLIND, rl=section))
    before, after = (load_exploration(AFTER, load_policy(AFTER).backbone.shape, when) for when in ("before", "after"))
    assert before.noise == after.noise == noise_at(section, section.iterations - 1)
    assert before.mdp == "one_layer" and before.net is not None and after.net is not None
    assert all((one != other).any() for one, other in zip(before.net.parameters(), after.net.parameters(), strict=True))


@pytest.mark.parametrize("mdp", ["hybrid", "two_layer"])
def test_before_and_after_meet_the_same_noise(mdp: str) -> None:
    """So that equal policies do the same, at every noise."""
    shutil.copytree(START, AFTER)
    content = json.loads((AFTER / "exploration.json").read_text())
    (AFTER / "exploration.json").write_text(json.dumps(content | {"mdp": mdp}))
    rows = {split: part.drop(columns="split") for split, part in evaluated(3).groupby("split")}
    assert (rows[EXPLORING].to_numpy() == rows[EXPLORING_BEFORE].to_numpy()).all()
    assert not (rows[EXPLORING]["reward"].to_numpy() == rows["id"]["reward"].to_numpy()[:3]).any()


def edited(**values: Any) -> Callable[[], object]:
    def edit() -> None:
        path = AFTER / "exploration.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return edit


def without_a_tensor() -> None:
    path = AFTER / "exploration.safetensors"
    save_file({key: value for key, value in load_file(path).items() if key != "before.layers.0.bias"}, path)


BREAKS: dict[str, Callable[[], object]] = {
    "exploration.json: ": lambda: (AFTER / "exploration.json").unlink(),
    "exploration.safetensors": lambda: (AFTER / "exploration.safetensors").unlink(),
    "misses before.layers.0.bias": without_a_tensor,
    "rule = 'white'": edited(rule="white"),
    "level = 'loud'": edited(level="loud"),
    "colour = 1": edited(colour=1),
    "min_std = 0.5 must be above 0 and below": edited(min_std=0.5),
    "e-sft-0 is not there yet": lambda: shutil.rmtree(START),
}


@pytest.fixture
def learned() -> None:
    rl.run(job("rl", env=BLIND, rl=Rl.model_validate(BASE["Rl"] | LEARNED | {"iterations": 1})))


@pytest.mark.parametrize("said", BREAKS)
def test_what_is_missing_or_damaged_is_told_in_one_line(said: str, learned: None) -> None:
    BREAKS[said]()
    with pytest.raises(UserError) as error:
        evaluated(1)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_exploration_acts_all_the_same(learned: None) -> None:
    for path in AFTER.glob("exploration.*"):
        path.unlink()
    assert set(evaluated(0)["split"]) == {"id"}


def test_sft_never_explored() -> None:
    section = Evaluate.model_validate(BASE["Evaluate"] | {"exploring_episodes_per_task": 1})
    assert exploring_labels(section, "sft") == [] and len(exploring_labels(section, "m")) == 2
    with pytest.raises(ValueError, match=r"exploring_episodes_per_task 5 exceeds the 4 of splits\.id"):
        Evaluate.model_validate(BASE["Evaluate"] | {"exploring_episodes_per_task": 5})

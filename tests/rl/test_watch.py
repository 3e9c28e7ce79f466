"""Sets that RL only looks at: logged at every validation, on validation seeds, without any say in what is kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pirl_core import seeds
from pirl_core.envs.vector import slots as vector
from pirl_core.errors import UserError
from pirl_core.params.file import check_params, resolve
from pirl_core.params.preset import preset_values
from pirl_core.params.sections import Rl
from pirl_core.stages import rl
from tests.params.probes import BASE, BLIND, everything, job, small_start
from tests.params.walk import Walk

WATCH = {
    "ood_visual": {"tasks": None, "shift": "visual", "episodes_per_task": 3},
    "ood_other": {"tasks": ["drawer-close-v3"], "shift": "none", "episodes_per_task": 2},
}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "outputs/rl/e-m-0/metrics.jsonl").read_text().splitlines()]


def test_watched_sets_are_logged_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector, "VectorEnv", Walk)
    torch.set_num_threads(1)
    for name, watch in (("plain", {}), ("watched", WATCH)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        small_start("e-sft-0")
        section = Rl.model_validate(BASE["Rl"] | {"watch": watch, "iterations": 3, "validate_every": 2})
        rl.run(job("rl", env=BLIND, rl=section))
    plain, watched = lines(tmp_path / "plain"), lines(tmp_path / "watched")
    extra = {"validation/ood:visual", "validation/ood:other"}
    assert [row["step"] for row in watched if extra <= row.keys()] == [0, 2, 3]
    assert [{key: row[key] for key in row.keys() - extra} for row in watched] == plain
    policies = [everything(tmp_path / name / "outputs/policy") for name in ("plain", "watched")]
    assert policies[0] == policies[1]
    played = {episode for episode in Walk.made[-1].played if (episode.task, episode.shift) != ("reach-v3", "none")}
    assert {(episode.task, episode.shift, episode.number) for episode in played} == {
        *(("reach-v3", "visual", number) for number in range(3)),
        *(("drawer-close-v3", "none", number) for number in range(2)),
    }
    assert {seeds.use_of(episode.seed) for episode in played} == {"validation"}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "experiment": (
        {"ood_x": {"tasks": ["juggle-v3"], "shift": "none", "episodes_per_task": 1}},
        r"experiments\.metaworld\.rl\.watch\.ood_x\.tasks: unknown MetaWorld task 'juggle-v3'",
    ),
    "method": (
        {"ood_x": {"tasks": None, "shift": "dark", "episodes_per_task": 1}},
        r"methods\.flow_noise\.watch\.ood_x\.shift: .*dark",
    ),
    "base": (
        {"ood_x": {"tasks": ["handle-press-v3"], "shift": "none", "episodes_per_task": 1}},
        r"p: rl\.watch\.ood_x\.tasks: handle-press-v3 would be trained too.* a shift$",
    ),
    "name": ({"id": {"tasks": None, "shift": "visual", "episodes_per_task": 1}}, r"watch 'id' must be called 'ood_"),
}


@pytest.mark.parametrize("where", WRONG)
def test_watched_sets_are_checked_as_splits_are(where: str) -> None:
    values = preset_values("smoke")
    watch, said = WRONG[where]
    place = {"experiment": values["experiments"]["metaworld"]["rl"], "method": values["methods"]["flow_noise"]}
    place.get(where, values["rl"])["watch"] = watch
    with pytest.raises(UserError, match=said):
        check_params(values, "p")


def test_sets_of_tasks_are_looked_up() -> None:
    values = preset_values("smoke")
    values["rl"]["watch"] = {"ood_x": {"tasks": ["ml45"], "shift": "visual", "episodes_per_task": 1}}
    tasks = resolve(check_params(values, "p"), "metaworld", "flow_sde").rl.watch["ood_x"].tasks
    assert tasks is not None and len(tasks) == 45

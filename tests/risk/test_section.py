"""The section `risk` of params.yaml: what is wrong is told in one line, with its key, value and remedy."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from pirl_core.commands.targets import evaluations, stage_names
from pirl_core.errors import UserError
from pirl_core.params.file import check_params, resolve_risk
from pirl_core.params.preset import load_preset, preset_values
from pirl_core.report.papers.beside import check_models
from pirl_core.risk.model import pomdp_of

Edit = Callable[[dict[str, Any]], Any]


def world(**changes: Any) -> Edit:
    return lambda content: content["risk"]["experiments"]["pomdp"].update(changes)


def risk(**changes: Any) -> Edit:
    return lambda content: content["risk"].update(changes)


BAD: dict[str, tuple[Edit, str]] = {
    "γ of no risk": (risk(gammas=[1, 0]), r"risk\.gammas\.1: γ = 0 is risk-neutral, .*; give at least 1e-6 or -1e-6"),
    "γ beyond floats": (risk(gammas=[1, -90]), r"risk: gammas -90 × experiments\.pomdp\.horizon 4: .*within 300"),
    "γ twice": (risk(gammas=[1, 1.0]), r"risk\.gammas: lists 1\.0 twice; remove one"),
    "no γ": (risk(gammas=[]), r"risk\.gammas = \[\]: List must have at least 1"),
    "unknown key": (risk(gamma=1), r"risk\.gamma = 1: unknown key; did you mean 'gammas'"),
    "δ that is none": (risk(delta=1), r"risk\.delta = 1: must be less than 1"),
    "no way to explore": (risk(methods={}), r"risk: methods \{\} leaves nothing to run"),
    "bonus of nothing": (
        risk(methods={"m": {"bonus_scale": 0, "bonus_in_q": True}}),
        r"risk\.methods\.m: bonus_in_q true adds nothing where bonus_scale is 0; set it to false",
    ),
    "too long a history": (world(horizon=9), r"risk\.experiments\.pomdp: horizon 9: .*\^8 = 1679616 histories"),
    "a row too few": (
        world(emission=[[1, 1, 1]] * 2),
        r"risk\.experiments\.pomdp: emission has 2 rows, initial has 3 states; give one a state",
    ),
    "a number too few": (
        world(reward=[[1, 0], [1], [1, 0]]),
        r"risk\.experiments\.pomdp: reward\[1\] has 1 numbers, transition has 2; give as many",
    ),
    "no weight": (
        world(initial=[0, 0, 0]),
        r"risk\.experiments\.pomdp\.initial: weights \[0\.0, 0\.0, 0\.0\] have no sum to divide by; give one above 0",
    ),
    "a weight below 0": (world(initial=[1, -1, 0]), r"risk\.experiments\.pomdp\.initial\.1 = -1: must be greater"),
    "a reward above 1": (world(reward=[[2, 0]] * 3), r"risk\.experiments\.pomdp\.reward\.0\.0 = 2: must be less"),
    "nothing at all": (
        lambda content: content["risk"].update(experiments={}, methods={}),
        r"experiments and risk\.experiments are both \{\}, so nothing would run; name one in either",
    ),
    "both kinds": (
        lambda content: content.update(experiments=preset_values("smoke")["experiments"], policies=["sft"]),
        r"experiments and risk\.experiments: a scale has one report, of either; set the other to \{\}",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_told_in_one_line(name: str) -> None:
    edit, message = BAD[name]
    content = preset_values("risk")
    edit(content)
    with pytest.raises(UserError) as error:
        check_params(content, "params.yaml")
    assert re.match(rf"params\.yaml: {message}", str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


def test_without_policies_experiments_are_in_vain() -> None:
    content = preset_values("smoke") | {"policies": []}
    with pytest.raises(UserError, match=r"params\.yaml: policies: \[\] leaves nothing to evaluate"):
        check_params(content, "params.yaml")


def test_a_paper_that_is_none_is_told() -> None:
    content = preset_values("risk")
    content["risk"]["experiments"]["mdp"]["paper"] = "mpd"
    params = check_params(content, "params.yaml")
    with pytest.raises(UserError, match=r"risk\.experiments\.mdp\.paper: unknown name 'mpd'; did you mean 'mdp'\?; or"):
        check_models(params)


def test_rows_become_probabilities() -> None:
    for name, one in load_preset("risk").risk.experiments.items():
        pomdp = pomdp_of(one)
        for array in pomdp[:3]:
            assert array.sum(-1) == pytest.approx(1), name
        assert pomdp.transition.shape == (4, 2, 3, 3) and pomdp.reward.shape == (4, 2, 3)
    emission = pomdp_of(load_preset("risk").risk.experiments["pomdp"]).emission
    assert emission[3, 0] == pytest.approx([0.83 / 0.9, 0.05 / 0.9, 0.02 / 0.9])
    # From state 1 mostly to state 2, whatever the action: [action, state, next state].
    assert emission[0].argmax(1).tolist() == [0, 1, 2] and pomdp.transition[0].argmax(2).tolist()[0] == [0, 1, 0]


def test_stages_are_those_of_experiments_methods_and_seeds() -> None:
    params = load_preset("risk")
    names = stage_names(params)
    assert len(names) == 3 * 4 * 5 + 1 and names[0] == "risk@pomdp-literal-0" and names[-1] == "report"
    assert evaluations(params, "fork") == [name for name in names if name.startswith("risk@fork-")]
    one = resolve_risk(params, "mdp", "greedy")
    assert list(one.experiments) == ["mdp"] and list(one.methods) == ["greedy"] and one.gammas == params.risk.gammas
    assert not [name for name in stage_names(load_preset("laptop")) if name.startswith("risk@")]

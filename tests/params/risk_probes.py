"""`tests.params.probes` of section risk: its worlds and its ways to explore them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pirl_core.params import sections as params
from pirl_core.params.file import resolve_risk
from pirl_core.report.build import build_report
from pirl_core.stages import risk
from tests.params.probes import SMOKE, everything, job
from tests.report.made_up import unchanged

WORLD = {
    "horizon": 3, "initial": [1, 1], "transition": [[[1, 1], [1, 4]], [[9, 1], [3, 7]]], "emission": [[7, 3], [1, 9]],
    "reward": [[1, 0], [0.5, 1]], "paper": None,
}  # fmt: skip
BONUS = {"bonus_scale": 0.01, "bonus_in_q": False}
BASE: dict[str, dict[str, Any]] = {
    "Risk": {
        "experiments": {"w": WORLD}, "methods": {"m": BONUS}, "gammas": [1.0], "episodes": 30, "delta": 0.2,
        "log_every": 5,
    },
    "World": WORLD,
    "Bonus": BONUS,
}  # fmt: skip


def see_risk(values: dict[str, Any]) -> Any:
    """Curves of all its runs, and their report."""
    none: dict[str, Any] = {"policies": [], "methods": {}, "experiments": {}}
    whole = params.Params.model_validate(SMOKE | none | {"risk": values})
    for experiment in whole.risk.experiments:
        for method in whole.risk.methods:
            chosen = job("risk", risk=resolve_risk(whole, experiment, method))
            risk.run(chosen._replace(name=f"{experiment}-{method}-0"))
    build_report(whole, Path("outputs"), Path("results"), unchanged)
    return everything(Path("outputs")), everything(Path("results"))


def see_world(values: dict[str, Any]) -> Any:
    return see_risk(BASE["Risk"] | {"experiments": {"w": values}})


def see_bonus(values: dict[str, Any]) -> Any:
    return see_risk(BASE["Risk"] | {"methods": {"m": values}})


SEE: dict[str, Callable[[dict[str, Any]], Any]] = {"Risk": see_risk, "World": see_world, "Bonus": see_bonus}

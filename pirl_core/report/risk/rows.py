"""Regrets of all learners: what metrics.json has of them, from the curves of stage risk.

Axes: S training seeds, P points of a curve.
"""

from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pirl_core.errors import UserError
from pirl_core.params.sections import Params
from pirl_core.report.contrasts import paired_t
from pirl_core.report.inputs import REMEDY, Curve, read_curve
from pirl_core.report.risk.published import published
from pirl_core.report.tables import Row
from pirl_core.risk.model import metric

SHARES = (0.25, 0.5, 1.0)
"""Of the episodes: after which regret is told. The exponent is of those from the first on."""


class Learner(NamedTuple):
    """One experiment, method and γ. episode: (P,), of which the last is K; regret: (S, P), of all episodes until then;
    value: (S,), J of the last policy."""

    experiment: str
    method: str
    gamma: float
    optimum: float
    bound: float
    episode: np.ndarray
    regret: np.ndarray
    value: np.ndarray


def read_learners(outputs: Path, params: Params) -> list[Learner]:
    """In the order of params.yaml. Raises UserError for a run that is missing, or whose curve is another's."""
    risk = params.risk
    found = []
    for experiment, method in product(risk.experiments, risk.methods):
        curves: dict[Path, Curve] = {}
        for seed in params.seeds:
            name = f"{experiment}-{method}-{seed}"
            path = outputs / "risk" / name / "metrics.jsonl"
            curves[path] = read_curve(path)
            if not curves[path]:
                raise UserError(f"{path} does not exist; run make stage STAGE=risk@{name} first")
        for gamma in risk.gammas:
            optimum, bound, regret, value = (
                np.array([_series(path, curve, metric(name, gamma)) for path, curve in curves.items()])
                for name in ("optimum", "bound", "regret", "value")
            )
            episode = regret[0, :, 0]
            if episode[-1] != risk.episodes:
                path = next(iter(curves))
                raise UserError(f"{path} is of other episodes than params.yaml asks for: {REMEDY}")
            one = float(optimum[0, 0, 1]), float(bound[0, 0, 1])
            found.append(Learner(experiment, method, gamma, *one, episode, regret[:, :, 1], value[:, -1, 1]))
    return found


def _series(path: Path, curve: Curve, name: str) -> list[tuple[float, float]]:
    if name not in curve:
        raise UserError(f"{path} has no {name}: {REMEDY}")
    return curve[name]


def regret_row(learner: Learner, params: Params) -> Row:
    """Of metrics["regret"]. regret: at SHARES of the episodes. exponent: None where there is no regret."""
    paper = params.risk.experiments[learner.experiment].paper
    return {
        "experiment": learner.experiment,
        "method": learner.method,
        "gamma": learner.gamma,
        "seeds": list(params.seeds),
        "single_seed": len(params.seeds) == 1,
        "episodes": int(learner.episode[-1]),
        "optimum": learner.optimum,
        "value": float(learner.value.mean()),
        "paper": published()[paper].get(learner.gamma) if paper else None,
        "regret": [_point(learner, share) for share in SHARES],
        "exponent": exponent(learner),
        "bound": learner.bound,
    }


def exponent(learner: Learner) -> float | None:
    """Slope of ln regret, its mean over seeds, over ln k by least squares."""
    tail = learner.episode >= SHARES[0] * learner.episode[-1]
    episode, regret = learner.episode[tail], learner.regret.mean(0)[tail]
    if len(episode) < 2 or regret[0] <= 1e-9:
        return None
    return float(np.polyfit(np.log(episode), np.log(regret), 1)[0])


def spread(learner: Learner) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds and its 95 % interval, each (P,): no less than 0, as regret is but for rounding; nan where seeds
    do not differ."""
    found = paired_t(learner.regret.T)
    bounded = np.isfinite(found.low)
    return found.mean.clip(0), np.where(bounded, found.low.clip(0), np.nan), np.where(bounded, found.high, np.nan)


def _point(learner: Learner, share: float) -> Row:
    """At the last point of the curve that is not beyond."""
    index = int(np.searchsorted(learner.episode, share * learner.episode[-1], side="right")) - 1
    index = max(index, 0)
    mean, low, high = (float(one[index]) for one in spread(learner))
    limits = (None, None) if np.isnan(low) else (low, high)
    return {"episode": int(learner.episode[index]), "mean": mean, "ci_low": limits[0], "ci_high": limits[1]}

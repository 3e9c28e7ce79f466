"""What the runs of a twin say of the paper's claims: verdicts, each with its differences, intervals and counts.

A claim holds of a region of a - b (`contrasts.region`), and is judged by the 95 % interval of a - b: confirmed where
that lies within the region, contradicted where it lies outside, else not decided. Of several pairs all must be
confirmed, one contradicted will do. For a confirmation no correction is needed (intersection-union test, Berger 1982,
Technometrics 24, 295); a contradiction of k pairs that all hold at their border is false k times as often at most.
docs/claims.md says how many false verdicts to expect.

One training seed decides nothing: its interval knows only this seed's policy.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pirl_core.evaluation.stats import CONFIDENCE, Estimate
from pirl_core.report.claim_file import Claim, Figure, Metric, Pair
from pirl_core.report.contrasts import (
    CONFIRMED,
    CONTRADICTED,
    MOST_SEEDS,
    NO_RUNS,
    NOT_DECIDED,
    Region,
    decide,
    gain_difference,
    paired_t,
    region,
    seeds_needed,
)
from pirl_core.report.evidence import Answer, Evidence, Query, absent, answer, ask, curve, paired, rows_of
from pirl_core.report.reducers import REDUCERS
from pirl_core.report.tables import interval, method_label, points
from pirl_core.report.twins import for_twin

VERDICTS = (CONFIRMED, CONTRADICTED, NOT_DECIDED, NO_RUNS)


class Comparison(NamedTuple):
    """One pair. label: what a - b is; found: a - b (n = 0 for a metric), or why there is none; needs: what would
    decide it, or make it known; '' where it is decided. in_points: a share, else in a metric's unit."""

    label: str
    found: Answer | str
    verdict: str
    needs: str
    in_points: bool


class Verdict(NamedTuple):
    name: str
    claim: Claim
    verdict: str
    comparisons: tuple[Comparison, ...]


def judge(evidence: Evidence, claims: dict[str, Claim]) -> list[Verdict]:
    """One a claim of which the twin has a pair, in their order. Raises UserError as `evidence.ask` does."""
    verdicts = []
    for name, claim in claims.items():
        where = region(claim.kind, claim.margin or 0.0)
        pairs = [pair for pair in claim.pairs if pair.only in (None, evidence.twin)]
        comparisons = tuple(_compare(evidence, pair, where) for pair in pairs)
        if comparisons:
            verdicts.append(Verdict(name, claim, overall([one.verdict for one in comparisons]), comparisons))
    return verdicts


def overall(verdicts: Sequence[str]) -> str:
    """Of a claim, from those of its pairs."""
    return next(word for word in (CONTRADICTED, NO_RUNS, NOT_DECIDED, CONFIRMED) if word in verdicts)


def difference(evidence: Evidence, pair: Pair) -> Answer | str:
    """a - b, or in words why there is none.

    Figures are paired by training seed and episode, gains of different episodes are not (`contrasts`), metrics are
    paired by training seed.
    """
    if isinstance(pair.a, Metric) or isinstance(pair.b, Metric):
        return _metric_difference(evidence, pair)
    a, b = pair.a.query(evidence.twin), pair.b.query(evidence.twin)
    return _gain_difference(evidence, a, b) if a.of == "gain" else _figure_difference(evidence, a, b)


def _compare(evidence: Evidence, pair: Pair, where: Region) -> Comparison:
    found = difference(evidence, pair)
    in_points, label = isinstance(pair.a, Figure), _label(pair, evidence.twin)
    if isinstance(found, str):
        return Comparison(label, found, NO_RUNS, found, in_points)
    if found.seeds < 2:
        return Comparison(label, found, NOT_DECIDED, "2 training seeds at least", in_points)
    verdict = str(decide(where, np.array(found.low), np.array(found.high)))
    return Comparison(label, found, verdict, _needs(where, found) if verdict == NOT_DECIDED else "", in_points)


def _needs(where: Region, found: Answer) -> str:
    if not np.isfinite(found.low):
        return "seeds that differ: without a spread there is no interval"
    count = seeds_needed(where, _estimate(found), found.seeds)
    return f"more than {MOST_SEEDS} seeds" if count is None else f"about {count} seeds"


def _figure_difference(evidence: Evidence, a: Query, b: Query) -> Answer | str:
    after, before = rows_of(evidence, a), rows_of(evidence, b)
    if isinstance(after, str) or isinstance(before, str):
        return after if isinstance(after, str) else str(before)
    # In order: the first experiment of b stands beside the first of a.
    names = {
        "experiment": dict(zip(b.experiments, a.experiments, strict=True)),
        "split": dict(zip(b.splits, a.splits, strict=True)),
    }
    before = before.assign(**{column: before[column].map(other) for column, other in names.items()})
    pairs = paired(before, after, f"{a.method} of {a.experiments[0]} and {b.method} of {b.experiments[0]}")
    return pairs if isinstance(pairs, str) else answer(pairs, differences=True)


def _gain_difference(evidence: Evidence, a: Query, b: Query) -> Answer | str:
    left, right = ask(evidence, a), ask(evidence, b)
    if isinstance(left, str) or isinstance(right, str):
        return left if isinstance(left, str) else str(right)
    found = gain_difference(_estimate(left), _estimate(right))
    return _answer(found, left.n + right.n, min(left.seeds, right.seeds))


def _metric_difference(evidence: Evidence, pair: Pair) -> Answer | str:
    left, right = _by_seed(evidence, pair.a), _by_seed(evidence, pair.b)
    if isinstance(left, str) or isinstance(right, str):
        return left if isinstance(left, str) else str(right)
    seeds = sorted(left.keys() & right.keys())
    if not seeds:
        return f"{_label(pair, evidence.twin)}: no training seed in common that says it"
    found = paired_t(np.array([left[seed] - right[seed] for seed in seeds]))
    return _answer(found, 0, len(seeds))


def _by_seed(evidence: Evidence, side: Figure | Metric) -> dict[int, float] | str:
    """The reduced metric by training seed."""
    assert isinstance(side, Metric)
    experiment = for_twin(side.experiment, evidence.twin)
    stage = "sft" if side.method == "sft" else "rl"
    curves = [curve(evidence, experiment, side.method, metric, stage) for metric in side.metrics]
    if lacking := [metric for metric, found in zip(side.metrics, curves, strict=True) if not found]:
        ran = {*zip(evidence.curves["experiment"], evidence.curves["stage"], evidence.curves["method"], strict=True)}
        has = (experiment, stage, "" if stage == "sft" else side.method) in ran
        unrecorded = f"{experiment} {side.method} recorded no {lacking[0]}"
        return unrecorded if has else absent(evidence, experiment, side.method)
    shared = set.intersection(*({*found} for found in curves))
    reduced = {seed: REDUCERS[side.reduce](_added([found[seed] for found in curves])) for seed in shared}
    return {seed: value for seed, value in reduced.items() if np.isfinite(value)}


def _added(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """At the steps that all have."""
    at = [dict(points) for points in curves]
    return [(step, sum(values[step] for values in at)) for step, _ in curves[0] if all(step in v for v in at)]


def _answer(found: Estimate, n: int, seeds: int) -> Answer:
    return Answer(float(found.mean), float(found.low), float(found.high), n, seeds)


def _estimate(found: Answer) -> Estimate:
    return Estimate(np.array(found.mean), np.array(found.low), np.array(found.high))


def _label(pair: Pair, twin: str) -> str:
    """What both sides are of, but for their experiments, and then what they differ in."""
    sides = [_words(side, twin) for side in (pair.a, pair.b)]
    rows = list(zip(*sides, strict=True))
    shared = [
        one for (one, other), shown in zip(rows, (True, False, True, True), strict=True) if one == other and shown
    ]
    differing = [" ".join(words[i] for i, (one, other) in enumerate(rows) if one != other) for words in sides]
    return ": ".join(
        part for part in (" ".join(word for word in shared if word not in ("", "id")), " − ".join(differing)) if part
    )


def _words(side: Figure | Metric, twin: str) -> list[str]:
    """The figure or metric, experiments, method, splits; '' for success."""
    if isinstance(side, Metric):
        name = " + ".join(metric.rpartition("/")[2] for metric in side.metrics)
        return [f"{side.reduce} {name}", for_twin(side.experiment, twin), method_label(side.method), "id"]
    query = side.query(twin)
    several = f" and {len(query.experiments) - 1} more" if len(query.experiments) > 1 else ""
    splits = query.splits[0] if len(query.splits) == 1 else f"{len(query.splits)} splits"
    figure = "" if query.of == "success" else query.of
    return [figure, query.experiments[0] + several, method_label(query.method), splits]


def claims_table(verdicts: Sequence[Verdict]) -> tuple[list[str], list[list[str]]]:
    """Header and cells; a line for each pair, those of one claim below each other."""
    header = ["claim", "source", "verdict", "a − b", "difference", "95 % interval", "seeds", "pairs", "would decide it"]
    cells = []
    for verdict in verdicts:
        for number, one in enumerate(verdict.comparisons):
            own = [verdict.claim.text, verdict.claim.source, verdict.verdict] if number == 0 else ["", "", ""]
            cells.append([*own, one.label, *_numbers(one), one.needs])
    return header, cells


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many there are of each verdict, and how many comparisons to expect decided wrongly, at most: 5 %, were all
    differences just at their border."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    judged = sum(not isinstance(one.found, str) for verdict in verdicts for one in verdict.comparisons)
    said = ", ".join(f"{counts[word]} {word}" for word in VERDICTS)
    wrong = (1 - CONFIDENCE) * judged
    return f"{said}; {judged} comparisons have an interval, of which at most {wrong:.1f} are expected wrong"


def _numbers(one: Comparison) -> list[str]:
    if isinstance(one.found, str):
        return ["–"] * 4
    show = points if one.in_points else _signed
    bounded = np.isfinite(one.found.low)
    limits = interval(one.found.low, one.found.high, one.found.seeds == 1, show) if bounded else "–"
    return [show(one.found.mean), limits, str(one.found.seeds), str(one.found.n) if one.found.n else "–"]


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")

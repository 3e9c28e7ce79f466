"""From the per-episode table to results/<scale>/metrics.json and success.json.

The files are a function of the episodes and the parameters alone: no clock, no machine, no random number, keys sorted,
six digits. A row with `single_seed` has an interval that says nothing of how training seeds differ.
"""

import json
from typing import Any

import numpy as np
import pandas as pd

from pirl_core.errors import UserError
from pirl_core.evaluation.scores import difference_of, grid_in, mean_of, score_of, values
from pirl_core.evaluation.starts import shared_starts
from pirl_core.evaluation.stats import Estimate, Grid, mean_interval
from pirl_core.facts import Score, facts_of
from pirl_core.params.file import resolve
from pirl_core.params.sections import Params
from pirl_core.report.inputs import listed_exploring, listed_splits
from pirl_core.report.papers.beside import paper_chain, paper_rate

Row = dict[str, Any]
PAIR = ["seed", "task", "env_seed"]


def build_metrics(params: Params, episodes: pd.DataFrame) -> dict[str, list[Row]]:
    """rows: one per experiment, split and policy; differences: policy - sft; groups: of tasks; tasks: by task; chains:
    of episodes that are sequences of subtasks; exploring: with RL's noise, after RL and before; shared_starts: what
    evaluation plays that training may have, in words. The last three are there where there are such.

    episodes: the frame of `inputs.read_episodes`. Rates and the paper's figures are fractions in [0, 1], mean
    returns where ``score`` says so.
    """
    metrics: dict[str, list[Row]] = {"rows": [], "differences": [], "groups": [], "tasks": []}
    chains: list[Row] = []
    explored: list[Row] = []
    shared: list[Row] = []
    for experiment in params.experiments:
        run = resolve(params, experiment)
        benchmark = run.env.world
        notes = shared_starts(run.env, run.evaluate)
        shared += [{"experiment": experiment, "split": split, "note": note} for split, note in notes.items()]
        for split in listed_splits(params, experiment):
            here = episodes[(episodes["experiment"] == experiment) & (episodes["split"] == split)]
            for method in params.policies:
                part = here[here["method"] == method]
                row = _rate_row(params, experiment, benchmark, method, split, part)
                tasks = _task_rows(experiment, method, split, part)
                groups = _group_rows(row, part)
                row["group_mean"] = float(np.mean([group["rate"] for group in groups])) if groups else None
                metrics["rows"].append(row)
                metrics["groups"] += groups
                metrics["tasks"] += tasks
                chains += _chain_rows(row, part, run.env.episode_steps)
                if method != "sft" and "sft" in params.policies:
                    metrics["differences"].append(_difference_row(params, experiment, method, split, here))
        explored += _exploring_rows(params, experiment, episodes)
    if chains:
        metrics["chains"] = chains
    if explored:
        metrics["exploring"] = explored
    if shared:
        metrics["shared_starts"] = shared
    found: dict[str, list[Row]] = rounded(metrics)
    return found


def build_success(metrics: dict[str, list[Row]]) -> dict[str, Any]:
    """For `dvc metrics show`: {experiment: {method: {split: {success, low, high, n}}}}, all but n in [0, 1].

    A method of RL has rl_minus_sft beside them: {points, low, high}, in percentage points. Where returns count, they
    stand under return in place of success and points. Of risk-sensitive RL:
    {experiment: {method: {gamma_1: {regret, low, high, value}}}}, regret of all episodes, J of the last one's policy.
    """
    found: dict[str, Any] = {}
    for row in metrics["rows"]:
        splits = found.setdefault(row["experiment"], {}).setdefault(row["method"], {})
        splits[row["split"]] = {
            row.get("score", "success"): row["rate"], "low": row["ci_low"], "high": row["ci_high"], "n": row["n"],
        }  # fmt: skip
    for row in metrics["differences"]:
        is_return = row.get("score") == "return"
        unit = {"return" if is_return else "points": row["diff"], "low": row["ci_low"], "high": row["ci_high"]}
        split = found[row["experiment"]][row["method"]][row["split"]]
        split["rl_minus_sft"] = {key: round((1 if is_return else 100) * value, 4) for key, value in unit.items()}
    for row in metrics.get("regret", []):
        end = row["regret"][-1]
        found.setdefault(row["experiment"], {}).setdefault(row["method"], {})[f"gamma_{row['gamma']:.15g}"] = {
            "regret": end["mean"], "low": end["ci_low"], "high": end["ci_high"], "value": row["value"],
        }  # fmt: skip
    return found


def to_json(data: Any) -> str:
    """Deterministic JSON: sorted keys, indented, one newline at the end."""
    return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _rate_row(params: Params, experiment: str, benchmark: str, method: str, split: str, part: pd.DataFrame) -> Row:
    entry = params.experiments[experiment]
    groups = {facts_of(benchmark).task(task).group for task in part["task"].unique()}
    group = groups.pop() if len(groups) == 1 else "average"
    return {
        "experiment": experiment,
        "benchmark": benchmark,
        "model": entry.model,
        "method": method,
        "split": split,
        **rate_of(part),
        "seeds": list(params.seeds),
        "paper": paper_rate(benchmark, entry.paper_model, method, split, group),
        "paper_model": entry.paper_model,
    }


def _difference_row(params: Params, experiment: str, method: str, split: str, here: pd.DataFrame) -> Row:
    """Pairs episodes of the policy and of its own SFT start (same training seed) by task and initial state."""
    score = score_of(here)
    sft, rl = (here.loc[here["method"] == name, PAIR] for name in ("sft", method))
    sft, rl = (part.assign(value=values(here.loc[part.index], score)) for part in (sft, rl))
    pairs = sft.merge(rl, on=PAIR, suffixes=("_sft", "_rl"), validate="one_to_one").sort_values(PAIR)
    if not len(pairs) == len(sft) == len(rl):
        raise UserError(
            f"outputs/evaluate: {experiment}-{method} and {experiment}-sft saw different episodes of split '{split}': "
            "run `dvc repro -f evaluate` so that both follow one protocol"
        )
    grid = grid_in(pairs, (pairs["value_rl"] - pairs["value_sft"]).to_numpy(float))
    estimate = difference_of(grid, score)
    return {
        "experiment": experiment,
        "method": method,
        "split": split,
        "n": grid.n,
        "diff": float(estimate.mean),
        **_interval(grid, estimate),
        **_unit(score),
    }


def _task_rows(experiment: str, method: str, split: str, part: pd.DataFrame) -> list[Row]:
    return [
        {"experiment": experiment, "method": method, "split": split, "task": str(task), **rate_of(here)}
        for task, here in part.groupby("task", sort=True)
    ]


def _group_rows(row: Row, part: pd.DataFrame) -> list[Row]:
    """In-distribution rates by group, in the benchmark's order; only the groups that the experiment's tasks fall in."""
    if row["split"] != "id":
        return []
    facts = facts_of(row["benchmark"])
    parts = dict(list(part.groupby(part["task"].map(lambda task: facts.task(task).group))))
    return [
        {
            "experiment": row["experiment"],
            "method": row["method"],
            "group": group,
            **rate_of(parts[group]),
            "paper": paper_rate(row["benchmark"], row["paper_model"], row["method"], "id", group),
        }
        for group in facts.groups
        if group in parts
    ]


def _chain_rows(row: Row, part: pd.DataFrame, limit: int) -> list[Row]:
    """Of the episodes that are sequences: shares with at least 1, 2, ... subtasks solved (CALVIN's Len-1 to Len-5), the
    average number solved, and the steps that a subtask had (``limit``) and has by the protocol. One row, or none where
    no episode is a sequence."""
    facts = facts_of(row["benchmark"])
    lengths = part["task"].map(lambda task: facts.task(task).length)
    published = [steps for task in part["task"].unique() if (steps := facts.task(task).steps)]
    sequences = part[lengths > 1]
    if sequences.empty:
        return []
    solved, longest = sequences["reward"].round(), int(lengths.max())
    grid = grid_in(sequences, solved.to_numpy(float))
    estimate = mean_interval(grid, longest)
    figures = paper_chain(row["benchmark"], row["paper_model"], row["method"], row["split"])
    return [
        {
            "experiment": row["experiment"],
            "method": row["method"],
            "split": row["split"],
            "n": grid.n,
            "reached": [float((solved >= count).mean()) for count in range(1, longest + 1)],
            "average": float(estimate.mean),
            **_interval(grid, estimate),
            "subtask_steps": limit,
            "protocol_steps": max(published, default=limit),
            "paper": None if figures is None else figures.average,
        }
    ]


def _exploring_rows(params: Params, experiment: str, episodes: pd.DataFrame) -> list[Row]:
    """Rates under the exploration noise of each method (π_RL Table 2, Train)."""
    here = episodes[episodes["experiment"] == experiment]
    return [
        {
            "experiment": experiment,
            "method": method,
            "split": split,
            **rate_of(here[(here["method"] == method) & (here["split"] == split)]),
        }
        for method in params.policies
        for split in listed_exploring(params, experiment, method)
    ]


def rate_of(part: pd.DataFrame) -> Row:
    """Of some episodes: how many, their success rate or mean return, and its interval."""
    score = score_of(part)
    grid = grid_in(part, values(part, score))
    estimate = mean_of(grid, score)
    return {
        "n": grid.n,
        **({} if score == "return" else {"successes": int(part["success"].sum())}),
        "rate": float(estimate.mean),
        **_interval(grid, estimate),
        **_unit(score),
    }


def _unit(score: Score) -> Row:
    """What a row says of itself where it is no success rate."""
    return {"score": score} if score == "return" else {}


def _interval(grid: Grid, estimate: Estimate) -> Row:
    return {"ci_low": float(estimate.low), "ci_high": float(estimate.high), "single_seed": grid.single_seed}


def rounded(value: Any) -> Any:
    """Every float in it to six digits behind the point."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value

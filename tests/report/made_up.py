"""Evaluations, curves and records with known counts, as the report finds them."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from PIL import Image

from pirl_core import seeds
from pirl_core.evaluation.scores import difference_of, mean_of, score_of, values
from pirl_core.evaluation.stats import grid_of
from pirl_core.params.file import load_params, resolve
from pirl_core.params.preset import preset_values
from pirl_core.params.sections import EXPLORING, EXPLORING_BEFORE, Params
from pirl_core.report.build import build_report
from pirl_core.report.older import Present

EASY, MEDIUM = "reach-v3", "hammer-v3"
# Of an episode as evaluation has them: 52 bits.
SEED = seeds.evaluation_seed(0, EASY, 0)
Edit = Callable[[dict[str, Any]], None]
# Successes of 20 episodes per (split, method, task).
COUNTS = {
    ("id", "sft"): {EASY: 8, MEDIUM: 2},
    ("id", "flow_sde"): {EASY: 18, MEDIUM: 12},
    ("id", "flow_noise"): {EASY: 20, MEDIUM: 0},
    ("ood:visual", "sft"): {EASY: 4, MEDIUM: 0},
    ("ood:visual", "flow_sde"): {EASY: 10, MEDIUM: 3},
    ("ood:visual", "flow_noise"): {EASY: 4, MEDIUM: 0},
}
N = 20
# Of a run's code, which is that of every run here.
DIGEST = "c0de"
PARTS = {"benchmarks": ["metaworld"], "backbones": ["pi0"], "noise_rules": ["flow_sde"]}


def make_params(folder: Path, edit: Edit = lambda _: None) -> Params:
    """Two experiments (`tiny` beside π0, `state` beside nothing), three policies, two seeds, two splits."""
    data = preset_values("laptop")
    entry = {**next(iter(data["experiments"].values())), "model": "tiny <π0>", "paper_model": "pi0"}
    data["experiments"] = {"tiny": entry, "state": {**entry, "model": "state", "paper_model": None}}
    data["policies"], data["seeds"] = ["sft", "flow_sde", "flow_noise"], [0, 1]
    data["evaluate"]["splits"] = {
        "ood_visual": {"tasks": None, "shift": "visual", "episodes_per_task": N},
        "id": {"tasks": None, "shift": "none", "episodes_per_task": N},
    }
    data["report"] = {"title": "A report"}
    edit(data)
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load_params(path)


def fill(outputs: Path, params: Params, counts: dict[tuple[str, str], dict[str, int]] = COUNTS, n: int = N) -> None:
    """Evaluations, curves, run records and a video; the first episodes of every task succeed."""
    for experiment in params.experiments:
        record(params, outputs, "curate", experiment, 30.0, 500)
        for seed in params.seeds:
            write_curve(outputs / "sft" / f"{experiment}-{seed}", "losses/flow_matching", [1.0, 0.2, 0.1])
            record(params, outputs, "sft", f"{experiment}-{seed}", 10.0, 1000)
            for policy in params.policies:
                name = f"{experiment}-{policy}-{seed}"
                rows = [
                    (experiment, "metaworld", "", policy, seed, split, task, i, 1000 + i, i < wins, 50, float(i < wins))
                    for (split, method), tasks in counts.items() if method == policy
                    for task, wins in tasks.items()
                    for i in range(n)
                ]  # fmt: skip
                columns = "experiment benchmark model method seed split task episode env_seed success steps reward"
                folder = outputs / "evaluate" / name
                (folder / "videos").mkdir(parents=True)
                pd.DataFrame(rows, columns=columns.split()).to_parquet(folder / "episodes.parquet", index=False)
                Image.new("RGB", (8, 8), "red").save(folder / "videos" / "a.gif")
                clip = {"file": "a.gif", "split": "id", "task": EASY, "success": True, "episode": SEED}
                (folder / "videos" / "videos.json").write_text(json.dumps([clip]))
                record(params, outputs, "evaluate", name, 5.0, 2048)
                if policy != "sft":
                    write_curve(outputs / "rl" / name, "validation/success", [0.25, 0.5, 0.75])
                    record(params, outputs, "rl", name, 100.0, 3072)


def write_curve(folder: Path, key: str, values: list[float]) -> None:
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": step, key: value, "losses/approx_kl": 0.01}) for step, value in enumerate(values)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def record(params: Params, outputs: Path, stage: str, name: str, wall: float, peak: float) -> None:
    path = outputs / "run" / stage / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cpu": "Some CPU", "cores": 2, "memory_mib": 8192, "gpus": [], "system": "Linux"}
    versions = {"python": "3.11.7", "versions": {"numpy": "1.26.4"}}
    code = {"revision": "abc1234", "edits": None, "code": {"digest": DIGEST, "parts": PARTS}}
    shared = {"machine": machine, **versions, **code}
    read = {"env": {"image_size": resolve(params, name.split("-")[0]).env.image_size}}
    row = {"wall_seconds": wall, "peak_memory_mib": peak, "params": read, **shared}
    path.write_text(json.dumps(row))


def unchanged(stage: str, parts: Any) -> str:
    """The code is still that of the records."""
    return DIGEST


def build(folder: Path, params: Params, present: Present = unchanged) -> dict[str, Any]:
    build_report(params, folder / "outputs", folder / "results", present)
    metrics: dict[str, Any] = json.loads((folder / "results" / "metrics.json").read_text())
    return metrics


def text_of(html: str) -> str:
    """What a reader sees, white space folded."""
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_data = found.append  # type: ignore[method-assign, assignment]
    parser.feed(re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL))
    return " ".join(" ".join(found).split())


def change(path: Path, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    edit(pd.read_parquet(path)).to_parquet(path, index=False)


def edit_record(outputs: Path, stage: str, name: str, **changes: Any) -> None:
    """Keys set to None are taken out."""
    path = outputs / "run" / stage / f"{name}.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def recompute(results: Path) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """From episodes.parquet alone, by (experiment, split, method): (n, successes, rate, low, high), and of RL − SFT
    (pairs, difference, low, high). Where returns count there are 0 successes, and the rate is the mean return."""
    episodes = pd.read_parquet(results / "episodes.parquet")
    episodes = episodes[~episodes["split"].isin([EXPLORING, EXPLORING_BEFORE])]
    score = score_of(episodes)
    episodes = episodes.assign(value=values(episodes.rename(columns={"return": "reward"}), score))
    rates, differences = {}, {}
    for (experiment, split), here in episodes.groupby(["experiment", "split"]):
        for method, part in here.groupby("method"):
            found = mean_of(_grid(part, part["value"].to_numpy()), score)
            rates[experiment, split, method] = (len(part), int(part["success"].sum()), *found)
            if method != "sft" and "sft" in set(here["method"]):
                sft = here[here["method"] == "sft"]
                pairs = sft.merge(part, on=["seed", "task", "env_seed"], suffixes=("_a", "_b"))
                change = pairs["value_b"].to_numpy() - pairs["value_a"].to_numpy()
                found = difference_of(_grid(pairs, change), score)
                differences[experiment, split, method] = (len(pairs), *found)
    return rates, differences


def _grid(frame: pd.DataFrame, value: Any) -> Any:
    return grid_of(frame["seed"].to_numpy(), frame["task"].to_numpy(str), frame["env_seed"].to_numpy(), value)


def told(results: Path) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The same numbers, as metrics.json has them."""
    metrics = json.loads((results / "metrics.json").read_text())
    names = {"rows": ("n", "successes", "rate", "ci_low", "ci_high"), "differences": ("n", "diff", "ci_low", "ci_high")}
    rates, differences = (
        {
            (row["experiment"], row["split"], row["method"]): tuple(row.get(name, 0) for name in of)
            for row in metrics[kind]
        }
        for kind, of in names.items()
    )
    return rates, differences

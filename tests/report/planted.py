"""Results of parts of a twin with known success and curves, in the files that a report leaves."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from pirl_core import seeds

TASKS = ("reach-v3", "hammer-v3")  # of the groups easy and medium
N = 40
Row = tuple[str, str, str]  # experiment, method, split
Rate = Callable[[int], float]  # of a training seed


def plant(folder: Path, rates: dict[Row, Rate], training_seeds: int = 5, n: int = N) -> None:
    """Episodes of which the rate of each seed and task succeeds, drawn anew for each; steps are 10 where it does."""
    rows = []
    for experiment, method, split in rates:
        rng = np.random.default_rng(abs(hash_of(f"{experiment} {method} {split}")))
        for seed in range(training_seeds):
            for task in TASKS:
                won = rng.random(n) < rates[experiment, method, split](seed)
                rows += [
                    (experiment, method, seed, split, task, seeds.evaluation_seed(0, task, i), win, float(win), 50)
                    for i, win in enumerate(won.tolist())
                ]
    folder.mkdir(parents=True)
    columns = ["experiment", "method", "seed", "split", "task", "env_seed", "success", "return", "steps"]
    pd.DataFrame(rows, columns=columns).to_parquet(folder / "episodes.parquet", index=False)
    records = [
        {"stage": "curate", "name": name, "params": {"env": {"benchmark": "metaworld"}}}
        for name in sorted({experiment for experiment, _, _ in rates})
    ]
    (folder / "run.json").write_text(json.dumps({"records": records}))


def plant_curves(folder: Path, curves: dict[tuple[str, str, str, str], list[list[float]]]) -> None:
    """(stage, experiment, method, metric) -> for each training seed its values by step."""
    rows = [
        (*key[:3], seed, key[3], step, value)
        for key, of_seeds in curves.items()
        for seed, values in enumerate(of_seeds)
        for step, value in enumerate(values)
    ]
    columns = ["stage", "experiment", "method", "seed", "metric", "step", "value"]
    pd.DataFrame(rows, columns=columns).to_parquet(folder / "curves.parquet", index=False)


def hash_of(text: str) -> int:
    """The same in every process."""
    return int.from_bytes(text.encode()) % 2**32

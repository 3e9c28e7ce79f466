"""The benchmarks run, at tiny settings, and make the table; what they measure is no matter of a test."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import (
    cluster,
    context,
    costs,
    environments,
    full_size,
    gpu,
    gradient_norms,
    iteration,
    machines,
    memory,
    overlap,
    reinflow,
    risk,
    sac_library,
    scaling,
    serving,
    simulators,
    startup,
    waiting,
)
from benchmarks.measure import Row, alternate, ratio, table
from benchmarks.setting import random_policy

TINY = {
    "startup": (startup, "--rounds 1"),
    "risk": (risk, "--episodes 20 --rounds 1"),
    "context": (context, "--samples 8 --size tiny --medium tiny --rounds 1 --updates 1 --decisions 8"),
}
SLOW = {
    "serving": (serving, "--calls 2 --rounds 1 --seconds 0.5"),
    "waiting": (waiting, "--samples 4 --rounds 1"),
    "environments": (environments, "--slots 4 --chunk 2 --chunks 2 --frames 1 --rounds 1 --repeats 1"),
    "full_size": (full_size, "--size tiny --rounds 1 --decisions 1 2"),
    "gpu": (gpu, "--size tiny --slots 2 --decisions 2 --minibatch 4 --micro 2 --rounds 1"),
    "overlap": (overlap, "--slots 2 --chunk 2 --chunks 2 --rounds 1"),
    "cluster": (cluster, "--slots 2 --chunk 2 --chunks 2 --rounds 1 --kills 2"),
    "machines": (machines, ""),
    "costs": (costs, "--scales laptop --slots 2 --chunks 1 --rounds 1"),
    "scaling": (scaling, "--slots 2 --episodes 2 --rounds 1"),
    "simulators": (simulators, "--scales laptop --slots 2 --rounds 1 --repeats 2"),
    "iteration": (iteration, "--slots 4 --episodes 4 --rounds 1"),
    "gradient_norms": (gradient_norms, "--steps 2 --families flow_g --updates 10 --batch 8"),
    "sac_library": (sac_library, "--chunk 16 --rounds 1 --results results/sac_flow_none"),
    "reinflow": (reinflow, "--slots 2 --decisions 3 --minibatch 3 --rounds 1"),
    "memory": (memory, "--iterations 6 --tasks 3 --slots 2 --steps 2"),
}


SOAK = {"environments", "scaling", "machines"}
"""Minutes; ``simulators``, ``waiting``, ``cluster`` and ``costs`` measure the same processes in less, and machines are
lost in ``tests/flows/test_machines.py``."""


def marks(part: str) -> list[pytest.MarkDecorator]:
    return [*([pytest.mark.slow] if part in SLOW else []), *([pytest.mark.soak] if part in SOAK else [])]


@pytest.mark.parametrize("part", [pytest.param(name, marks=marks(name)) for name in TINY | SLOW])
def test_part_measures(part: str, tmp_path: Path) -> None:
    module, words = (TINY | SLOW)[part]
    module.main([*words.split(), "--json", str(tmp_path / "rows.json")])
    rows = [Row(*row) for row in json.loads((tmp_path / "rows.json").read_text())]
    assert rows
    assert all(row.what and row.measured for row in rows)
    if part == "context":
        assert all("differ by 0e+00" in row.how for row in rows if "minibatch:" in row.what)


@pytest.mark.parametrize("family", full_size.MODELS)
def test_the_full_size_accepts_its_tokenizer(family: str, tmp_path: Path) -> None:
    """As `make bench-full` and the GPU's script build it, but without the gigabytes of its weights."""
    run = full_size.paper(family, "full", tmp_path)
    with torch.device("meta"):
        policy = random_policy(run, run.policy)
    assert sum(parameter.numel() for parameter in policy.backbone.parameters()) > 2e9


def test_one_command_writes_the_table(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--only", "startup", "--output", str(tmp_path / "RESULTS.md")]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| what | measured |" in text
    assert "cores" in text
    # Another part's rows stay as they were measured.
    other = {**json.loads((tmp_path / "measured/startup.json").read_text()), "rows": [["snow", "2 m", "", None, ""]]}
    (tmp_path / "measured/risk.json").write_text(json.dumps(other))
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    assert "| snow | 2 m |" in (tmp_path / "RESULTS.md").read_text()


def test_sides_take_turns_and_the_ratio_is_that_of_a_round() -> None:
    order: list[str] = []
    clock = iter(range(1, 100))

    def side(name: str, factor: float) -> float:
        order.append(name)
        return factor * next(clock)

    results = alternate({"a": lambda: side("a", 1), "b": lambda: side("b", 2)}, 2)
    assert order == ["a", "b", "b", "a"]
    assert results == {"a": [1, 4], "b": [4, 6]}
    assert ratio(results["b"], results["a"]) == pytest.approx((4 + 1.5) / 2)
    assert "| x | 1 | ≥ 2 | **no** |  |" in table([Row("x", "1", "≥ 2", False)])


@pytest.mark.slow
def test_the_library_makes_as_many_steps_as_a_committed_run(tmp_path: Path) -> None:
    played = {"method": ["sac_flow"] * 2, "task": ["Hopper-v5"] * 2, "split": ["id"] * 2}
    pd.DataFrame({"experiment": "hopper", "seed": [0, 0], "return": [1.0, 3.0], **played}).to_parquet(
        tmp_path / "episodes.parquet"
    )
    steps = {"experiment": ["hopper", "hopper", "other"], "seed": 0, "metric": "charts/total_steps"}
    pd.DataFrame({**steps, "value": [20.0, 40.0, 90.0]}).to_parquet(tmp_path / "curves.parquet")
    row = sac_library.returns("Hopper-v5", tmp_path)
    assert "(2 / " in row.measured and "40 steps at most" in row.how

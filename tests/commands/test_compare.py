"""`pirl compare` against counts made by hand, by every way to name an evaluation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from pirl_core.commands.cli import main
from pirl_core.evaluation.stats import Grid, difference_interval, grid_of
from pirl_core.report.episodes import episodes_table, write_table

TASKS = ("reach-v3", "hammer-v3")
N = 25


def table(name: str, rate: float, seed: int = 0, splits: tuple[str, ...] = ("id", "ood:visual")) -> None:
    """An evaluation of N episodes per split and task, drawn with success ``rate``."""
    rng = np.random.default_rng([seed, round(100 * rate)])
    rows = [
        ("metaworld", name, seed, split, task, 1000 + i, bool(rng.random() < rate), 50, 0.0)
        for split in splits
        for task in TASKS
        for i in range(N)
    ]
    folder = Path("outputs/evaluate") / f"metaworld-{name}-{seed}"
    folder.mkdir(parents=True)
    columns = ["experiment", "method", "seed", "split", "task", "env_seed", "success", "steps", "reward"]
    pd.DataFrame(rows, columns=columns).to_parquet(folder / "episodes.parquet")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pirl(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(*options: str) -> Any:
        assert main(["compare", *options, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return call


def read(name: str) -> pd.DataFrame:
    return pd.read_parquet(Path("outputs/evaluate") / name / "episodes.parquet")


def part(frame: pd.DataFrame, row: dict[str, Any]) -> pd.DataFrame:
    frame = frame[frame["split"] == row["split"]]
    return frame[frame["task"] == row["task"]] if row["task"] else frame


@pytest.mark.parametrize("tasks", [False, True])
def test_every_number(tasks: bool, pirl: Callable[..., Any]) -> None:
    table("sft", 0.4)
    table("flow_sde", 0.8, splits=("ood:visual", "id", "ood:tasks"))
    told = pirl("metaworld-sft-0", "metaworld-flow_sde-0", *(["--tasks"] if tasks else []))
    assert [row["split"] for row in told["rows"]][:: 2 if tasks else 1] == ["id", "ood:tasks", "ood:visual"]
    for row in told["rows"]:
        mine = [part(read(f"metaworld-{name}-0"), row) for name in ("sft", "flow_sde")]
        for side, frame in zip("ab", mine, strict=True):
            if len(frame):
                low, high = binomtest(int(frame["success"].sum()), len(frame)).proportion_ci(method="exact")
                wanted = {"n": len(frame), "rate": frame["success"].mean(), "low": low, "high": high}
                assert row[side] == pytest.approx(wanted | {"successes": frame["success"].sum(), "single_seed": True})
        if row["split"] == "ood:tasks":
            assert (row["a"], row["pairs"], row["difference"], row["unpaired_a"]) == (None, 0, None, 0)
            assert row["unpaired_b"] == len(mine[1])
            continue
        pairs = mine[0].merge(mine[1], on=["split", "task", "env_seed"], suffixes=("_a", "_b"))
        wins = pairs[["success_a", "success_b"]].astype(int)
        change = wins["success_b"] - wins["success_a"]
        assert (row["pairs"], row["unpaired_a"], row["unpaired_b"]) == (len(pairs), 0, 0)
        assert row["difference"]["mean"] == pytest.approx(change.mean())
        seed, task, state = (pairs[key].to_numpy() for key in ("seed_a", "task", "env_seed"))
        grid = grid_of(seed, task, state, change.to_numpy())
        _, low, high = difference_interval(grid)
        assert (row["difference"]["low"], row["difference"]["high"]) == pytest.approx((low, high))
        assert row["difference"]["single_seed"]


def test_seeds_are_paired_with_their_own_kind(pirl: Callable[..., Any]) -> None:
    for seed in (0, 1, 10):
        table("sft", 0.4, seed, splits=("id",))
    for seed in (0, 10):
        table("flow_sde", 0.8, seed, splits=("id",))
    told = pirl("metaworld-sft", "metaworld-flow_sde")
    assert (told["a"]["seeds"], told["b"]["seeds"]) == ([0, 1, 10], [0, 10])
    (row,) = told["rows"]
    assert (row["pairs"], row["unpaired_a"], row["unpaired_b"]) == (100, 50, 0)
    wins = {
        name: np.stack([read(f"metaworld-{name}-{seed}")["success"] for seed in (0, 10)]).astype(float)
        for name in ("sft", "flow_sde")
    }
    change = wins["flow_sde"] - wins["sft"]
    assert row["difference"]["mean"] == pytest.approx(np.mean(change))
    assert not any(row[part]["single_seed"] for part in ("a", "b", "difference"))
    _, low, high = difference_interval(Grid(change, np.ones((2, 2 * N), bool), np.repeat([0, 1], N)))
    assert (row["difference"]["low"], row["difference"]["high"]) == pytest.approx((low, high))
    # Two single runs are compared whatever their training seeds; the same run differs nowhere from itself.
    assert pirl("metaworld-sft-1", "metaworld-flow_sde-10")["rows"][0]["pairs"] == 50
    (same,) = pirl("metaworld-sft", "metaworld-sft")["rows"]
    found = same["difference"]
    assert (found["mean"], found["low"]) == (0, -found["high"]) and 0.01 < found["high"] < 0.1


def test_every_way_to_name_an_evaluation(pirl: Callable[..., Any], tmp_path: Path) -> None:
    table("sft", 0.4)
    table("flow_sde", 0.8)
    (tmp_path / "clone").mkdir()
    (tmp_path / "outputs").rename(tmp_path / "clone/outputs")
    table("sft", 0.4)
    there = str(tmp_path / "clone/outputs/evaluate/metaworld-flow_sde")
    names = (there, f"{there}-0", f"{there}-0/", f"{there}-0/episodes.parquet")
    numbers = [pirl("metaworld-sft", name)["rows"] for name in names]
    assert numbers == numbers[:1] * 4
    assert pirl("evaluate@metaworld-sft-0", there)["rows"] == numbers[0]


def results(folder: str, evaluations: tuple[str, ...] = ("sft-0", "sft-1", "flow_sde-0", "flow_sde-1")) -> Path:
    """What the report makes of these evaluations."""
    frames = [read(f"metaworld-{name}") for name in evaluations]
    path = Path(folder) / "episodes.parquet"
    path.parent.mkdir(parents=True)
    write_table(path, episodes_table(pd.concat(frames)))
    return path


def test_rows_of_results_are_named_as_their_evaluation(
    pirl: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for seed in (0, 1):
        table("sft", 0.4, seed)
        table("flow_sde", 0.8, seed)
    wanted = {end: pirl(f"metaworld-sft{end}", f"metaworld-flow_sde{end}")["rows"] for end in ("", "-1")}
    results("clone/results/laptop")
    (tmp_path / "outputs").rename(tmp_path / "elsewhere")
    there = str(tmp_path / "clone/results/laptop/metaworld-")
    for end, rows in wanted.items():
        told = pirl(f"{there}sft{end}", f"{there}flow_sde{end}")
        assert told["rows"] == rows
        assert told["a"]["seeds"] == ([1] if end else [0, 1])
    # Beside an evaluation that still has its folder, and from within the results.
    mixed = pirl("elsewhere/evaluate/metaworld-sft", f"{there}flow_sde/", "--tasks")["rows"]
    assert len(mixed) == 4 and all(row["pairs"] == 2 * N for row in mixed)
    monkeypatch.chdir(tmp_path / "clone/results/laptop")
    assert pirl("metaworld-sft", "metaworld-flow_sde")["rows"] == wanted[""]


@pytest.mark.parametrize("name", ["metaworld-flow_sde-7", "metaworld-flow", "flow_sde", "", "episodes.parquet"])
def test_unknown_rows_are_told_with_those_that_there_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        table("sft", 0.4, seed)
    table("flow_sde", 0.8)
    results("results/laptop", ("sft-0", "sft-1", "flow_sde-0"))
    assert main(["compare", "results/laptop/metaworld-sft", f"results/laptop/{name}"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.endswith(
        "name an evaluation in results/laptop/episodes.parquet, such as results/laptop/metaworld-flow_sde; it has "
        "metaworld-flow_sde, training seeds 0; metaworld-sft, training seeds 0, 1\n"
    )


def test_the_table_shows_what_json_says(capsys: pytest.CaptureFixture[str]) -> None:
    table("sft", 0.0)
    table("flow_sde", 1.0)
    assert main(["compare", "metaworld-sft", "metaworld-flow_sde"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    assert "A  metaworld-sft, training seed 0\nB  metaworld-flow_sde, training seed 0\n" in text
    row = text.splitlines()[5].split("  ")
    assert [cell.strip() for cell in row if cell.strip()] == [
        "ID", "0.0", "0.0 to 7.1 †", "50", "100.0", "92.9 to 100.0 †", "50", "+100.0", "+89.9 to +100.0 †", "50",
    ]  # fmt: skip
    assert text.splitlines()[-1] == "† One training seed: the interval says nothing of seed-to-seed variance."
    table("sft", 0.0, seed=1)
    table("flow_sde", 1.0, seed=1)
    assert main(["compare", "metaworld-sft", "metaworld-flow_sde"]) == 0
    assert "†" not in capsys.readouterr().out
    assert "unpaired" not in text


def change(edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = Path("outputs/evaluate/metaworld-flow_sde-0/episodes.parquet")
    edit(pd.read_parquet(path)).to_parquet(path)


BREAKS: dict[str, Callable[[], object]] = {
    "metaworld-flow_sde-0: neither an evaluation nor a folder with episodes.parquet; outputs/evaluate has "
    "metaworld-sft-0": lambda: Path("outputs/evaluate/metaworld-flow_sde-0/episodes.parquet").unlink(),
    "damaged parquet": lambda: Path("outputs/evaluate/metaworld-flow_sde-0/episodes.parquet").write_text("no"),
    "column 'task' is missing": lambda: change(lambda f: f.drop(columns="task")),
    "column 'success' must hold true or false": lambda: change(lambda f: f.assign(success=0.5)),
    "have no episode in common": lambda: change(lambda f: f.assign(env_seed=f["env_seed"] + N)),
    "holds an episode twice": lambda: change(lambda f: pd.concat([f, f[:1]])),
    "none in common": lambda: change(lambda f: pd.concat([f.assign(seed=5), f.assign(seed=6)])),
    "holds no episode": lambda: change(lambda f: f[:0]),
}


@pytest.mark.parametrize("message", BREAKS)
def test_bad_input_is_one_line(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    table("sft", 0.4)
    table("flow_sde", 0.8)
    BREAKS[message]()
    assert main(["compare", "metaworld-sft-0", "metaworld-flow_sde-0"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert message in said.err

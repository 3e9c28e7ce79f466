"""The file of claims, and verdicts on planted results."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pirl_core.commands.cli import main
from pirl_core.errors import UserError
from pirl_core.params.preset import load_preset
from pirl_core.report.claim_file import CLAIMS, Figure, Metric, claims_of, read_claims
from pirl_core.report.claims import Verdict, claims_table, judge, summary
from pirl_core.report.evidence import listed_in, parts_of, read_evidence
from pirl_core.report.inputs import listed_splits
from pirl_core.report.reducers import REDUCERS
from pirl_core.report.twins import SIBLINGS, TWINS, for_twin
from tests.report.planted import Rate, plant, plant_curves


def fixed(rate: float) -> Rate:
    return lambda _: rate


def figure(method: str, **more: Any) -> dict[str, Any]:
    return {"experiments": ["one"], "method": method, **more}


def metric(method: str, name: str = "losses/approx_kl", reduce: str = "mean") -> dict[str, Any]:
    return {"experiment": "one", "method": method, "metrics": [name], "reduce": reduce}


def claim(kind: str, *pairs: tuple[dict[str, Any], dict[str, Any]], margin: float | None = None) -> dict[str, Any]:
    content = {"text": "It is so.", "source": "Sec. 1", "kind": kind, "pairs": [{"a": a, "b": b} for a, b in pairs]}
    return content | ({} if margin is None else {"margin": margin})


def verdicts(folder: Path, claims: dict[str, dict[str, Any]]) -> dict[str, Verdict]:
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump(claims))
    found = judge(read_evidence(folder, "paper_small"), read_claims(path))
    return {one.name: one for one in found}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Five seeds: RL far better than SFT in distribution, less so outside, where `worse` is worse."""
    rates = {
        ("one", "sft", "id"): 0.3, ("one", "flow_sde", "id"): 0.95, ("one", "worse", "id"): 0.05,
        ("one", "alike", "id"): 0.95, ("one", "sft", "ood:visual"): 0.3, ("one", "flow_sde", "ood:visual"): 0.5,
        ("one_k1", "sft", "id"): 0.05,
    }  # fmt: skip
    part = tmp_path / "paper_small_a"
    plant(part, {row: fixed(rate) for row, rate in rates.items()})
    kl = ("losses/approx_kl", 0.01)
    plant_curves(
        part,
        {
            ("rl", "one", "flow_sde", kl[0]): [[kl[1] * (seed + step) for step in range(20)] for seed in range(5)],
            ("rl", "one", "worse", kl[0]): [[1 + kl[1] * seed**2] * 20 for seed in range(5)],
            ("sft", "one", "", kl[0]): [[1.0], [1.1], [0.9], [1.0], [1.05]],
        },
    )
    return tmp_path


def test_verdicts_of_planted_results(results: Path) -> None:
    rl, sft, worse, alike = (figure(method) for method in ("flow_sde", "sft", "worse", "alike"))
    gain, ood = figure("flow_sde", of="gain"), figure("flow_sde", of="gain", splits=["ood:visual"])
    k1 = figure("sft") | {"experiments": {"paper": ["none"], "paper_small": ["one_k1"]}}
    expected = {
        "effect": ("confirmed", claim("more", (rl, sft))),
        "reversed": ("contradicted", claim("more", (worse, sft))),
        "null": ("not decided", claim("more", (rl, alike))),
        "not_less": ("confirmed", claim("not_less", (rl, alike), margin=0.2)),
        "equal": ("confirmed", claim("equal", (rl, alike), margin=0.2)),
        "unequal": ("contradicted", claim("equal", (rl, sft), margin=0.2)),
        "gains": ("confirmed", claim("more", (gain, ood))),
        "both": ("confirmed", claim("more", (rl, sft), (sft, worse))),
        "half": ("not decided", claim("more", (rl, sft), (rl, alike))),
        "broken": ("contradicted", claim("more", (rl, sft), (worse, sft), (rl, figure("none")))),
        "other_experiment": ("confirmed", claim("more", (sft, k1))),
        "no_run": ("no runs yet", claim("more", (rl, sft), (rl, figure("none")))),
        "metric": ("confirmed", claim("more", (metric("worse"), metric("flow_sde")))),
        "metric_reversed": ("contradicted", claim("more", (metric("flow_sde"), metric("worse")))),
        "metric_of_sft": ("confirmed", claim("more", (metric("sft"), metric("flow_sde", reduce="first")))),
        "no_metric": ("no runs yet", claim("more", (metric("worse", "losses/none"), metric("flow_sde")))),
    }
    found = verdicts(results, {name: content for name, (_, content) in expected.items()})
    assert {name: one.verdict for name, one in found.items()} == {name: word for name, (word, _) in expected.items()}
    assert found["no_run"].comparisons[1].needs == "no run of one none: no preset of paper_small has it"
    assert found["no_metric"].comparisons[0].needs == "one worse recorded no losses/none"
    assert "seeds" in found["null"].comparisons[0].needs
    header, cells = claims_table(list(found.values()))
    assert len(cells) == 21 and all(len(line) == len(header) for line in cells)
    assert summary(list(found.values())).startswith("8 confirmed, 4 contradicted, 2 not decided, 2 no runs yet")


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    rates = {("one", "sft", "id"): fixed(0.0), ("one", "flow_sde", "id"): fixed(1.0)}
    plant(tmp_path / "paper_small_a", rates, training_seeds=1)
    plant_curves(tmp_path / "paper_small_a", {("rl", "one", m, "losses/approx_kl"): [[1.0]] for m in ("b", "c")})
    found = verdicts(
        tmp_path,
        {
            "success": claim("more", (figure("flow_sde"), figure("sft"))),
            "metric": claim("more", (metric("b"), metric("c"))),
        },
    )
    assert {one.verdict for one in found.values()} == {"not decided"}
    line = claims_table([found["success"]])[1][0]
    assert line[4] == "+100.0" and line[5].endswith("†") and line[-1] == "2 training seeds at least"


def test_a_pair_may_be_of_one_twin_only(results: Path) -> None:
    """The other twin judges what is left, and leaves out a claim of which nothing is."""
    better, worse = (figure("flow_sde"), figure("sft")), (figure("worse"), figure("sft"))
    both = claim("more", better, worse)
    both["pairs"][1]["only"] = "paper"
    alone = claim("more", worse)
    alone["pairs"][0]["only"] = "paper"
    found = verdicts(results, {"both": both, "alone": alone})
    assert {name: one.verdict for name, one in found.items()} == {"both": "confirmed"}


def test_reducers_by_hand() -> None:
    points = [(0.0, 0.5), (1.0, 0.2), (2.0, 0.85), (3.0, 0.9), (4.0, 0.9)]
    found = {name: reduce(points) for name, reduce in REDUCERS.items()}
    assert found == pytest.approx(
        {"first": 0.5, "last": 0.9, "mean": 0.67, "largest": 0.9, "reached": 3.0, "dip": 0.3, "jump": 0.65}
    )
    # A run that gains nothing reaches nothing, wherever it began; from 0.8 to 0.9 the way is short, and 0.85 not near.
    assert np.isnan(REDUCERS["reached"]([(0.0, 0.9), (1.0, 0.9)])) and np.isnan(REDUCERS["reached"]([(0.0, 0.5)]))
    assert REDUCERS["reached"]([(0.0, 0.8), (1.0, 0.85), (2.0, 0.895), (3.0, 0.9)]) == 2
    assert REDUCERS["last"]([(float(i), float(i)) for i in range(20)]) == 18.5
    assert REDUCERS["jump"]([(0.0, 1.0)]) == 0 and REDUCERS["dip"](points[2:]) == 0


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"kind": "less"}, "kind"),
        ({"margin": 0.1}, "margin"),
        ({"kind": "equal"}, "margin"),
        ({"note": "x"}, "note"),
        ({"pairs": []}, "pairs"),
        ({"pairs": [{"a": figure("x"), "b": metric("x")}]}, "both be figures"),
        ({"pairs": [{"a": figure("x"), "b": figure("x", of="gain")}]}, "same figure"),
        ({"pairs": [{"a": figure("x"), "b": figure("x", splits=["id", "ood:a"])}]}, "as many experiments"),
        ({"pairs": [{"a": figure("x"), "b": figure("x") | {"experiments": {"paper": ["one"]}}}]}, "both, paper and"),
        ({"pairs": [{"a": figure("x"), "b": figure("x", splits=["train"])}]}, "splits.0 = 'train'"),
        ({"pairs": [{"a": metric("x"), "b": metric("x", reduce="median")}]}, "reduce = 'median'"),
    ],
)
def test_a_mistake_is_told_in_one_line(edit: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"mine": claim("more", (figure("x"), figure("y"))) | edit}))
    with pytest.raises(UserError) as error:
        read_claims(path)
    assert said in str(error.value) and str(error.value).startswith(f"{path}: mine") and "\n" not in str(error.value)


@pytest.mark.parametrize("twin", [*TWINS, *SIBLINGS])
def test_claims_ask_for_what_presets_run(twin: str) -> None:
    """Every row of a claim that the twin judges is one of a preset, every shifted set one of its evaluation."""
    asked = [pair for one in read_claims(claims_of(twin)).values() for pair in one.pairs if pair.only in (None, twin)]
    sides = [side for pair in asked for side in (pair.a, pair.b)]
    rows = {(name, side.method) for side in sides for name in experiments(side, twin)}
    assert [row for row in sorted(rows) if not listed_in(twin, *row)] == []
    labels: dict[str, set[str]] = {}
    for preset in map(load_preset, parts_of(twin)):
        for name in preset.experiments:
            labels.setdefault(name, set()).update(listed_splits(preset, name))
    strange = [
        (name, split)
        for side in sides if isinstance(side, Figure)
        for name in experiments(side, twin) if name in labels
        for split in side.splits if split.startswith("ood:") and split not in labels[name]
    ]  # fmt: skip
    assert strange == [] and len(rows) > (3 if twin in SIBLINGS else 40)


def experiments(side: Figure | Metric, twin: str) -> list[str]:
    return for_twin(side.experiments, twin) if isinstance(side, Figure) else [for_twin(side.experiment, twin)]


def test_it_is_a_command(results: Path, capsys: pytest.CaptureFixture[str], root: Path) -> None:
    assert main(["claims", "--results", str(results)]) == 0
    said = capsys.readouterr().out
    judged = [one for one in read_claims().values() if any(pair.only != "paper" for pair in one.pairs)]
    assert f"{len(judged)} no runs yet" in said and "RL raises success on" in said
    assert main(["claims", "--twin", "paper", "--results", str(results)]) == 0
    assert "make reproduce SCALE=paper" in capsys.readouterr().out
    assert main(["claims", "--results", str(results / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert CLAIMS.is_file()


@pytest.mark.parametrize("twin", [*TWINS, *SIBLINGS])
def test_what_committed_runs_contradict_is_discussed(twin: str, committed: Path, root: Path) -> None:
    """In docs, by the claim's key."""
    verdicts = judge(read_evidence(committed, twin), read_claims(claims_of(twin)))
    wrong = [one.name for one in verdicts if one.verdict == "contradicted"]
    pages = "".join(path.read_text(encoding="utf-8") for path in (root / "docs").glob("*.md"))
    assert [name for name in wrong if f"`{name}`" not in pages] == []

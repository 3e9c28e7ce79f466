"""``pirl plan --simulate``: what it tells, and what it refuses."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pirl_core.commands import forecast
from pirl_core.commands.cli import main
from pirl_core.errors import UserError
from pirl_core.params.file import Run, resolve
from pirl_core.params.preset import load_preset, preset_text
from pirl_core.plan.costs import COMMITTED, Machines, costs_of, read_costs
from pirl_core.plan.counted import Amount, Counted, counted
from pirl_core.plan.sweep import Fleet, cells

COUNTS = Counted(Amount(1e12, 1000), Amount(2e12, 3000), 1e8)


@pytest.fixture
def section() -> Run:
    return resolve(load_preset("laptop"), "metaworld", "flow_sde")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_text(preset_text("laptop").replace("  size: tiny\n", "  size: nano\n"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_table_and_its_picture(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--simulate", "--gpus", "2", "16", "--simulators", "8", "64", "--figure", "scaling.svg"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert all(f"\n{source} (" in told for source in ("measured",)) and "\nassumed: links of" in told
    assert "which are assumed" in told and "beyond a machine" in told
    rows = dict(re.findall(r"^(2|16) +(\S.*)$", told, re.MULTILINE))
    assert re.fullmatch(r"[\d,]+ [\w-]+ \d+ % +[\d,]+ [\w-]+ \d+ %", rows["2"])
    # Sixteen GPUs have not a simulator each.
    assert rows["16"].startswith("–")
    assert (here / "scaling.svg").read_text().startswith("<")
    first = told
    assert main(words) == 0
    assert capsys.readouterr().out == first


def test_one_iteration_share_by_share(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--simulate", "--gpus", "2", "--simulators", "8"]) == 0
    told = capsys.readouterr().out
    shares = [float(share) for share in re.findall(r"^  [\w-]+ +([\d.]+) %$", told, re.MULTILINE)]
    assert len(shares) == 8 and sum(shares) == pytest.approx(100, abs=0.5)
    assert "bottleneck: " in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpus", "0"], "--gpus 0"),
        (["--simulators", "1000000"], "--simulators 1000000"),
        (["--cores-per-gpu", "0"], "--cores-per-gpu 0"),
        (["--gpus", "8", "--simulators", "4"], "--simulators 4: fewer than --gpus 8"),
        (["--costs", "none.yaml"], "none.yaml: no such file"),
        (["--costs", "params.yaml"], "params.yaml: about"),
    ],
)
def test_what_makes_no_sense_is_told_in_a_line(
    words: list[str], said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--simulate", *words]) == 2
    line = capsys.readouterr().err
    assert line.startswith("pirl: plan: ") and said in line and line.count("\n") == 1


def test_what_is_not_modelled_is_refused(section: Run) -> None:
    def told(run: Run) -> list[str]:
        return list(forecast.lines(run, [1], [8], Fleet(), None, None))

    with pytest.raises(UserError, match="sac"):
        told(resolve(load_preset("sac_flow"), "hopper", "sac_flow"))
    with pytest.raises(UserError, match="sim_backend"):
        told(section._replace(env=section.env.model_copy(update={"sim_backend": "gpu"})))


def test_costs_are_measured_or_told_to_be_not(section: Run, tmp_path: Path) -> None:
    measured, machines = read_costs(COMMITTED), Machines()
    assert not measured.policies and measured.hop is None, "those of accelerators alone"
    costs, sources = costs_of(section, measured, COUNTS, machines, True)
    one = measured.simulators["metaworld"]
    assert costs.chunk == pytest.approx(measured.crowding * (10 * one.step + one.picture)) and costs.crowding == 1
    assert costs.infer == 1000 * machines.launch and costs.update_row == 2e12 / machines.flops
    assert {sources[name] for name in ("chunk", "message", "account")} == {"measured"}
    assert (sources["update"], sources["hop"], costs.bandwidth) == ("counted", "assumed", machines.inside)
    assert costs_of(section, measured, COUNTS, machines, False).costs.bandwidth == machines.between
    # A file of one's own.
    own: dict[str, Any] = measured.model_dump() | {"hop": 1e-6, "bandwidth": 4e9}
    own["policies"] = {"pi0 tiny": {"infer": 0.1, "infer_row": 0.2, "update": 0.3, "update_row": 0.4}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    costs, sources = costs_of(section, read_costs(tmp_path / "own.yaml"), COUNTS, machines, False)
    assert (costs.infer, costs.update_row, costs.bandwidth) == (0.1, 0.4, 4e9)
    assert set(sources.values()) == {"measured"}
    del own["simulators"]["metaworld"]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    with pytest.raises(UserError, match="no costs of the simulator metaworld"):
        costs_of(section, read_costs(tmp_path / "own.yaml"), COUNTS, machines, True)


def test_more_simulators_feed_a_policy_better(section: Run) -> None:
    """Batches grow, so that what a batch costs is shared by more; and no more GPUs are slower than one."""
    measured = read_costs(COMMITTED)
    rates = [cell.forecast.sps for cell in cells(section, measured, COUNTS, Fleet(), [1], [4, 16, 64]) if cell.forecast]
    assert rates == sorted(rates) and len(rates) == 3
    one, eight = cells(section, measured, COUNTS, Fleet(), [1, 8], [64])
    assert one.forecast and eight.forecast and eight.forecast.sps > 2 * one.forecast.sps


def test_what_is_counted(section: Run) -> None:
    """Of a recomputed layer one forward pass more; the hybrid process evaluates one step, the others all."""

    def update(**changes: Any) -> float:
        return counted(section._replace(rl=section.rl.model_copy(update=changes))).update.flops

    plain = update()
    assert update(activation_checkpointing=True) == pytest.approx(4 / 3 * plain)
    assert update(mdp="one_layer") == pytest.approx(section.policy.denoise_steps * plain)
    assert update(lora_rank=2) > 1.5 * plain
    found = counted(section)
    assert found.infer.flops > section.policy.denoise_steps * plain / 3 and found.infer.kernels > 100

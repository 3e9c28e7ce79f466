"""The planner: what it counts without memory is what the real network takes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pirl_core import named
from pirl_core.commands import plan
from pirl_core.commands.cli import main
from pirl_core.errors import UserError
from pirl_core.params.file import resolve
from pirl_core.params.preset import load_preset, preset_text
from pirl_core.params.sections import Params
from pirl_core.plan.model import inputs_of, model_of
from pirl_core.policy.backbone import new_backbone
from pirl_core.rl.sac.replay import Replay
from tests.worlds import NUMBERS_ALONE


def params(**policy: Any) -> Params:
    loaded = load_preset("laptop")
    changed = loaded.policy.model_copy(update={"size": "nano", **policy})
    return loaded.model_copy(update={"policy": changed})


@pytest.mark.parametrize("family", named.known(named.FAMILIES, "family"))
def test_counts_on_meta_are_those_of_real_memory(family: str) -> None:
    torch.set_num_threads(1)
    section = resolve(params(backbone=family), "metaworld", "flow_noise")
    if family in NUMBERS_ALONE:
        section = section._replace(env=section.env.model_copy(update={"cameras": [], "object_state": True}))
    policy = model_of(section)
    assert {parameter.device.type for parameter in policy.parameters()} == {"meta"}
    counts = plan.parameter_counts(policy)
    cases = [(count, encode, recompute) for count in (1, 3) for encode in (False, True) for recompute in (False, True)]
    kept = [plan._saved(policy, *case) for case in cases]
    bytes_of_context = plan.context_bytes(policy, "fp32")
    policy.backbone = real = new_backbone(policy.backbone.shape)
    assert counts["VLM"] + counts["expert"] == sum(parameter.numel() for parameter in real.parameters())
    assert counts["noise net"] > 0 and counts["critic"] > 0
    # The attention kernel of the meta device keeps a little more or less than the CPU's.
    again = [plan._saved(policy, *case) for case in cases]
    assert kept == pytest.approx(again, rel=0.04)
    with torch.no_grad():
        context = real.encode(inputs_of(policy, 1))
    assert bytes_of_context == sum(part.nbytes for part in context)


def test_shares_and_budgets() -> None:
    """Eight ranks hold an eighth of the contexts each; what exceeds the device's budget is the host's."""
    section = resolve(params(), "metaworld", "flow_sde")
    tight = section._replace(rl=section.rl.model_copy(update={"context_device_gib": 1e-4, "context_host_gib": 1.0}))
    one, eight = (plan.rl_need(tight, gpus) for gpus in (1, 8))
    (whole,) = (size for name, size in plan.rl_need(section, 1).lasting.items() if name.startswith("contexts"))
    assert one.host == pytest.approx(whole - 1e-4 * plan.GIB)
    assert eight.host == pytest.approx(whole / 8 - 1e-4 * plan.GIB)
    assert one.exchanged == 0 and eight.exchanged == pytest.approx(1.75 * eight.lasting["gradients"])
    halved = section._replace(sft=section.sft.model_copy(update={"micro_batch_size": 32}))
    full, half = (sum(plan.sft_need(part, 1).updating.values()) for part in (section, halved))
    assert full == pytest.approx(2 * half)


def test_precision_and_recomputation_are_counted() -> None:
    """bf16 halves what is frozen, pure_bf16 what learns too; layers computed again keep little but their inputs."""
    section = resolve(params(size="S"), "metaworld", "flow_sde")

    def rl(**changes: Any) -> plan.Need:
        return plan.rl_need(section._replace(rl=section.rl.model_copy(update=changes)), 1)

    def sft(**changes: Any) -> plan.Need:
        return plan.sft_need(section._replace(sft=section.sft.model_copy(update=changes)), 1)

    full, half, pure = (rl(precision=precision).lasting for precision in ("fp32", "bf16", "pure_bf16"))
    counts = plan.parameter_counts(model_of(section))
    assert full["weights"] == 4 * sum(counts.values())
    assert half["weights"] == pytest.approx(full["weights"] - 2 * counts["VLM"], rel=0.01)
    assert half["gradients"] == full["gradients"] > 1.1 * pure["gradients"]
    assert sft(precision="pure_bf16").lasting["optimiser"] == pytest.approx(0.5 * sft().lasting["optimiser"], rel=0.1)
    assert sft(precision="bf16").lasting["weights"] == sft().lasting["weights"]
    for parts in (rl, sft):
        many, few = (sum(parts(activation_checkpointing=on).updating.values()) for on in (False, True))
        assert few < 0.6 * many


def test_sharding_divides_what_is_trained_and_nothing_else() -> None:
    section = resolve(params(), "metaworld", "flow_sde")
    ddp, fsdp = (plan.rl_need(section, 8, sharded) for sharded in (False, True))
    for part in ("gradients", "optimiser"):
        assert fsdp.lasting[part] == ddp.lasting[part] / 8
    counts = plan.parameter_counts(model_of(section))
    trained = 4 * (sum(counts.values()) - counts["VLM"])
    assert ddp.lasting["weights"] - fsdp.lasting["weights"] == pytest.approx(7 / 8 * trained)
    assert sum(fsdp.between.values()) == trained and not ddp.between
    # Micro batches share the memory of one, and gather as often as there are of them.
    halved = section._replace(rl=section.rl.model_copy(update={"micro_batch_size": section.rl.minibatch_size // 16}))
    assert plan.rl_need(halved, 8, True).exchanged == pytest.approx(2 * fsdp.exchanged)
    assert plan.rl_need(halved, 8, False).exchanged == ddp.exchanged
    adapted = section._replace(rl=section.rl.model_copy(update={"lora_rank": 2}))
    lora = plan.rl_need(adapted, 8, True)
    assert not any(name.startswith("contexts") for name in lora.lasting) and lora.host == 0
    assert fsdp.lasting["optimiser"] < lora.lasting["optimiser"] < 1.1 * fsdp.lasting["optimiser"]
    assert sum(lora.updating.values()) > 1.5 * sum(fsdp.updating.values())


def test_the_published_pi0_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = preset_text("laptop").replace("  size: tiny\n", "  size: full\n")
    (tmp_path / "params.yaml").write_text(text.replace("tokenizer: words", "tokenizer: google/paligemma-3b-pt-224"))
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--gpus", "8", "--gpu-gib", "24"]) == 0
    told = capsys.readouterr().out
    assert "VLM 2923.3 M, expert 314.7 M" in told and told.count("together per GPU") == 2 and "does NOT fit" in told
    assert main(["plan", "--gpus", "8", "--gpu-gib", "80", "--sharding", "fsdp"]) == 0
    told = capsys.readouterr().out
    assert "between updates: what is trained, gathered" in told and "to make the policy whole" in told
    assert main(["plan", "--gpus", "1", "2"]) == 0
    assert capsys.readouterr().out.count("together per GPU") == 4
    assert main(["plan", "--gpus", "0"]) == 2
    assert capsys.readouterr().err.startswith("pirl: plan: --gpus 0")
    assert main(["plan", "--method", "nothing"]) == 2


def test_sac_is_counted_as_it_is() -> None:
    section = resolve(load_preset("sac_flow"), "hopper", "sac_flow")
    need, sac = plan.rl_need(section, 1), section.rl.sac
    policy = model_of(section)
    own = sum(parameter.numel() for parameter in policy.parameters())
    inner, width = 11 + 3, sac.critic_width
    row = sum(part.nbytes for part in Replay(1, 11, (1, 3))._rows)
    critics = 2 * (inner * width + width * width + width + 2 * width + 1)
    # The policy, two critics, their targets, and the temperature.
    assert need.lasting["weights"] == 4 * (own + 2 * critics + 1)
    assert need.lasting["optimiser"] == 2 * need.lasting["gradients"] == 8 * (own + critics + 1)
    assert need.host == sac.replay_size * row
    [kept] = need.updating.values()
    # Per decision and step at least the state, the chunk, both hidden layers of the candidate and the gate's.
    assert kept > 4 * sac.batch_size * section.policy.denoise_steps * (11 + 3 + 3 * 128)
    lines = plan.report(load_preset("sac_flow"), "hopper", "sac_flow", 1, 80)
    assert any("replay buffer in host memory" in line for line in lines)
    assert not any("contexts" in line for line in lines)
    with pytest.raises(UserError, match="--gpus 2"):
        plan.rl_need(section, 2)

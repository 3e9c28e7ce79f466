"""The dry run of the paper's presets is one of their own benchmarks, families and methods. Itself it takes an hour."""

import pytest

from pirl_core.params.file import check_params, resolve
from pirl_core.params.preset import load_preset
from pirl_core.report.evidence import parts_of
from tests.stages.dry_paper import shrunk


@pytest.mark.parametrize("part", parts_of("paper"))
def test_every_experiment_is_shrunk_and_kept(part: str) -> None:
    whole, small = load_preset(part), check_params(shrunk(part), part)
    assert list(small.experiments) == list(whole.experiments) and small.policies == whole.policies
    for experiment in whole.experiments:
        for method in [None, *whole.methods]:
            old, new = resolve(whole, experiment, method), resolve(small, experiment, method)
            assert (new.env.benchmark, new.policy.backbone) == (old.env.benchmark, old.policy.backbone)
            for key in ("noise_rule", "mdp", "algorithm", "critic", "critic_layers", "logprob_reduction", "dropout"):
                assert getattr(new.rl, key) == getattr(old.rl, key)
            assert bool(new.rl.lora_rank) == bool(old.rl.lora_rank)
            assert (new.policy.size, new.rl.iterations, len(new.env.tasks), new.curate.dataset) == ("nano", 1, 1, None)

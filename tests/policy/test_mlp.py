"""ReinFlow's network: the authors' parameter counts, the ratio of the first minibatch, the folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pirl_core.errors import UserError
from pirl_core.flow.chain import Noise
from pirl_core.policy.backbone import new_backbone, new_noise_net, new_shape, own_head
from pirl_core.policy.context import DataSizes
from pirl_core.policy.families.mlp.network import sinusoids
from pirl_core.policy.flow_policy import FlowPolicy, Process, keyed_normals
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.policy.normalize import Affine, Normalization
from pirl_core.policy.tokenizer import build_tokenizer
from pirl_core.rl.rollout import take
from pirl_core.types import Observation

# Of record_final.xlsx of the authors: state and action numbers; actor, noise net, critic. Chunks of four.
PUBLISHED = {
    "Hopper": ((11, 3), (553020, 6734, 134913)),
    "Walker2d": ((17, 6), (568392, 7898, 136449)),
    "Ant": ((111, 8), (624720, 14434, 160513)),
    "Humanoid": ((376, 17), (797300, 33734, 228353)),
}
BOUNDS = 2
"""Of the std, which the authors count to their noise net; here they are numbers of ``rl``."""
CHAIN = (5, 4, 3)


def make(size: Any = "nano", seed: int = 0) -> FlowPolicy:
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(["Hopper"])
    data = DataSizes(32, 0, tokenizer.get_vocab_size(), 2, 11, 3, 4)
    same = Normalization(Affine([0.1] * 11, [0.5] * 11), Affine([0.2] * 3, [0.6] * 3), 0)
    return FlowPolicy(new_backbone(new_shape("mlp", size, data)), tokenizer, "words", same, 4, 4).eval()


def observed(count: int) -> Observation:
    state = np.random.default_rng(0).standard_normal((count, 11)).astype(np.float32)
    return Observation(np.zeros((count, 0, 32, 32, 3), np.uint8), state, ["Hopper"] * count)


@pytest.mark.parametrize("task", PUBLISHED)
def test_parameters_are_as_many_as_the_authors(task: str) -> None:
    (state, action), published = PUBLISHED[task]
    shape = new_shape("mlp", "S", DataSizes(32, 0, 4, 2, state, action, 4))
    critic = own_head(shape, "critic")
    assert critic is not None
    counts = [sum(p.numel() for p in net.parameters()) for net in (new_backbone(shape), new_noise_net(shape), critic)]
    assert (counts[0], counts[1] + BOUNDS, counts[2]) == published


def test_time_is_embedded_as_in_the_formula() -> None:
    tau = torch.tensor([0.0, 0.25, 0.75])
    angle = np.outer(tau.numpy(), [1e4 ** (-i / 7) for i in range(8)])
    expected = torch.tensor(np.concatenate([np.sin(angle), np.cos(angle)], 1), dtype=torch.float32)
    torch.testing.assert_close(sinusoids(tau), expected)


@pytest.mark.parametrize("reduction", ["sum", "official", "mean"])
def test_the_first_ratio_is_one(reduction: str) -> None:
    """And the noise net learns through it, the time's embedding does not learn through the noise net."""
    policy, noise = make("S"), Noise("learned", 0.0, 0.1, 0.24)
    process = Process("one_layer", "env", reduction, "vlm")
    policy.add_heads(process, 4, True)
    normals = keyed_normals("chunk", [(0, row) for row in range(6)], CHAIN)
    with torch.no_grad():
        made = policy.decide(policy.encode(observed(6)), normals, torch.zeros(6), noise, process)
    rows = torch.tensor([4, 1, 3])
    context = policy.encode(take(observed(6), rows.numpy()))
    again = policy(context, made.states[rows], made.stochastic[rows], noise, process)
    assert (again.log_prob - made.log_prob[rows]).abs().max() < 1e-5 * max(1.0, float(made.log_prob.abs().max()))
    again.entropy.sum().backward()
    assert policy.noise_net is not None
    assert all(p.grad is not None and bool(p.grad.any()) for p in policy.noise_net.parameters())
    assert all(p.grad is None or not p.grad.any() for p in policy.backbone.parameters())


def test_the_folder_holds_it(tmp_path: Path) -> None:
    policy = make(seed=3)
    save_policy(policy, tmp_path)
    normals = keyed_normals("chunk", [(0, row) for row in range(6)], (4, 3))
    seen = observed(6)
    again = load_policy(tmp_path)
    assert torch.equal(policy.act(policy.encode(seen), normals), again.act(again.encode(seen), normals))


def test_it_is_told_that_it_does_not_see() -> None:
    with pytest.raises(UserError, match="mlp sees no pictures"):
        new_shape("mlp", "S", DataSizes(32, 1, 4, 2, 3, 2, 4))
    with pytest.raises(UserError, match="mlp has no published weights"):
        new_shape("mlp", "full", DataSizes(32, 0, 4, 2, 3, 2, 4))

"""The policy: the cached context, log-probabilities, the folder."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pirl_core.errors import UserError
from pirl_core.flow.chain import Noise
from pirl_core.policy.context import Context, Inputs
from pirl_core.policy.flow_policy import FlowPolicy, Process, keyed_normals
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.policy.interface import Interface
from pirl_core.policy.normalize import FIXED_SCALE, fit, moving
from tests.worlds import random_observation, small_policy

SDE, LEARNED = Noise("flow_sde", 0.5, 0, 0), Noise("learned", 0, 0.08, 0.16)


@pytest.mark.parametrize("pi05", [False, True])
def test_padding_and_other_rows_change_nothing(pi05):
    policy = small_policy(pi05=pi05)
    observation = random_observation(policy, 3)
    inputs = policy.inputs(observation)
    x, tau = torch.randn(3, 6, 3), torch.rand(3)
    other = inputs._replace(tokens=torch.where(inputs.tokens_valid, inputs.tokens, 5))
    with torch.no_grad():
        a, _ = policy.backbone.velocity(policy.backbone.encode(inputs), x, tau)
        b, _ = policy.backbone.velocity(policy.backbone.encode(other), x, tau)
        alone, _ = policy.backbone.velocity(
            policy.backbone.encode(Inputs(*(part[1:2] for part in inputs))), x[1:2], tau[1:2]
        )
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(a[1:2], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pi05", [False, True])
@pytest.mark.parametrize("cameras", [0, 1, 3])
def test_every_input_matters(cameras, pi05):
    """All but the state to π0.5, which reads it in the prompt or not at all."""
    policy = small_policy(cameras=cameras, pi05=pi05)
    observation = random_observation(policy, 2)
    normals = keyed_normals("chunk", [(0, 0), (0, 1)], (6, 3))
    with torch.no_grad():
        base = policy.act(policy.encode(observation), normals)
        words = observation._replace(instructions=observation.instructions[::-1])
        state = observation._replace(state=observation.state + 1)
        changed = [words, state] + ([observation._replace(images=255 - observation.images)] if cameras else [])
        for other in changed:
            ignored = pi05 and other is state
            assert ((policy.act(policy.encode(other), normals) - base).abs().max() > 1e-5) != ignored
    assert base.shape == (2, 4, 3)


CASES = [
    (SDE, Process("hybrid", "env", "sum", "vlm")),
    (SDE, Process("hybrid", "env", "sum", "expert")),
    (SDE, Process("two_layer", "env", "sum", "vlm")),
    (SDE, Process("one_layer", "env", "official", None)),
    (LEARNED, Process("one_layer", "env", "sum", "expert")),
    (LEARNED, Process("one_layer", "env", "official", "vlm")),
    (LEARNED, Process("one_layer", "env", "mean", "vlm")),
    (Noise("flow_cps", 0.5, 0, 0), Process("hybrid", "batch", "sum", "vlm")),
    (Noise("constant_sde", 0.1, 0, 0), Process("two_layer", "env", "mean", "vlm")),
]


@pytest.mark.parametrize(("noise", "process"), CASES)
@pytest.mark.parametrize("pi05", [False, True])
def test_training_repeats_the_rollout(noise, process, pi05):
    """Log-probability and value recomputed in training equal the rollout's to 1e-6, so the first ratio is 1."""
    policy = small_policy(pi05=pi05)
    policy.add_heads(process, 4, noise.rule == "learned")
    context = policy.encode(random_observation(policy, 5))
    normals = keyed_normals("chunk", [(0, i) for i in range(5)], (5, 6, 3))
    decision = policy.decide(context, normals, torch.rand(5), noise, process)
    again = policy(context, decision.states, decision.stochastic, noise, process)
    count = 4 if process.mdp == "two_layer" else 1
    assert decision.log_prob.shape == (5, count)
    ratio = (again.log_prob - decision.log_prob).exp()
    assert (ratio - 1).abs().max() < 1e-6 * max(1.0, decision.log_prob.abs().max().item())
    torch.testing.assert_close(again.value, decision.value, atol=1e-6, rtol=1e-6)


def test_only_real_steps_enter_the_ratio():
    """Two chains that differ beyond the executed part of the chunk have the same density under a state-free field."""
    policy = small_policy(horizon=6, replan=2)
    process = Process("one_layer", "env", "sum", None)
    context = policy.encode(random_observation(policy, 1))
    decision = policy.decide(context, keyed_normals("chunk", [(1,)], (5, 6, 3)), torch.rand(1), SDE, process)
    parameter = policy.backbone.get_parameter("pi0.action_out_proj.bias")
    policy(context, decision.states, decision.stochastic, SDE, process).log_prob.sum().backward()
    assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
    moved = decision.states.clone()
    moved[:, 1:, 2:] += 0  # the executed steps read the others through attention, so only the last state may differ
    moved[:, -1, 2:] += 5
    same = policy(context, moved, decision.stochastic, SDE, process).log_prob
    torch.testing.assert_close(same, decision.log_prob, atol=1e-5, rtol=1e-6)


def test_cached_context_gives_the_same_loss_and_gradients():
    """The frozen VLM's context, stored and sliced as the update does, against encoding anew for the minibatch."""
    policy = small_policy()
    process = Process("hybrid", "env", "sum", "vlm")
    policy.add_heads(process, 4, False)
    policy.backbone.freeze_vlm()
    observation = random_observation(policy, 6)
    with torch.no_grad():
        stored = policy.encode(observation)
    normals = keyed_normals("chunk", [(2, i) for i in range(6)], (5, 6, 3))
    decision = policy.decide(stored, normals, torch.rand(6), SDE, process)
    rows = torch.tensor([4, 1, 3])
    from pirl_core.rl.rollout import take as take_observation

    fresh = policy.encode(take_observation(observation, rows.numpy()))
    results = []
    for context in (Context(*(part[rows] for part in stored)), fresh):
        policy.zero_grad()
        out = policy(context, decision.states[rows], decision.stochastic[rows], SDE, process)
        loss = out.log_prob.sum() + out.value.square().sum()
        loss.backward()
        grads = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
        results.append((loss.detach(), grads))
    (loss_a, grads_a), (loss_b, grads_b) = results
    torch.testing.assert_close(loss_a, loss_b, atol=1e-5, rtol=1e-6)
    assert grads_a.keys() == grads_b.keys() and any("dit" in name for name in grads_a)
    assert not any("vlm" in name or "stem" in name for name in grads_a)
    for name, grad in grads_a.items():
        torch.testing.assert_close(grad, grads_b[name], atol=1e-4, rtol=1e-4)


def test_eq_16_averages_the_critic_over_the_chain():
    policy = small_policy()
    process = Process("hybrid", "env", "sum", "expert")
    policy.add_heads(process, 1, False)
    context = policy.encode(random_observation(policy, 2))
    decision = policy.decide(context, keyed_normals("chunk", [(3,), (4,)], (5, 6, 3)), torch.rand(2), SDE, process)
    with torch.no_grad():
        values = []
        for k in range(4):
            _, features = policy.backbone.velocity(context, decision.states[:, k], torch.full((2,), k / 4))
            assert policy.critic is not None
            values.append(policy.critic(features.mean(1)).squeeze(-1))
    torch.testing.assert_close(decision.value, torch.stack(values).mean(0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pi05", [False, True])
def test_folder_round_trip_is_bit_equal(tmp_path, pi05):
    policy = small_policy(cameras=2, pi05=pi05)
    policy.add_heads(Process("hybrid", "env", "sum", "vlm"), 4, True)
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path)
    assert loaded.critic is None and loaded.noise_net is None
    for name, value in policy.backbone.state_dict().items():
        assert torch.equal(value, loaded.backbone.state_dict()[name]), name
    observation, normals = random_observation(policy, 3), keyed_normals("chunk", [(0,), (1,), (2,)], (6, 3))
    with torch.no_grad():
        assert torch.equal(
            policy.act(policy.encode(observation), normals), loaded.act(loaded.encode(observation), normals)
        )


def _edit_json(name, change):
    def edit(folder):
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return edit


def _edit_weights(change):
    def edit(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return edit


BROKEN = {
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "truncated weights": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]),
    "a pickle for weights": lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04K\x01."),
    "a missing key": _edit_weights(lambda w: w.pop("pi0.action_out_proj.bias")),
    "an unknown key": _edit_weights(lambda w: w.update(extra=torch.zeros(1))),
    "a wrong shape": _edit_weights(lambda w: w.update({"pi0.action_out_proj.bias": torch.zeros(99)})),
    "a NaN": _edit_weights(lambda w: w["pi0.action_out_proj.bias"].fill_(float("nan"))),
    "no config": lambda f: (f / "config.json").unlink(),
    "config no JSON": lambda f: (f / "config.json").write_text("{"),
    "config a list": lambda f: (f / "config.json").write_text("[]"),
    "other format": _edit_json("config.json", lambda c: c.update(format=99)),
    "config without a size": _edit_json("config.json", lambda c: c["shape"].pop("heads")),
    "heads that cannot share keys": _edit_json("config.json", lambda c: c["shape"].update(kv_heads=3)),
    "config without replan": _edit_json("config.json", lambda c: c.pop("replan")),
    "no statistics": lambda f: (f / "normalization.json").unlink(),
    "statistics too short": _edit_json("normalization.json", lambda c: c["state"].update(center=[0.0])),
    "no tokenizer": lambda f: (f / "tokenizer.json").unlink(),
    "a camera without a name": _edit_json("interface.json", lambda c: c.update(cameras=[])),
    "two numbers of one name": _edit_json("interface.json", lambda c: c.update(action=["x", "x", "y"])),
    "tokenizer damaged": lambda f: (f / "tokenizer.json").write_text("no"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_told_in_one_line(name, tmp_path):
    policy = small_policy()
    policy.interface = Interface("metaworld", ["corner2"], list("abcd"), list("xyz"), 20, [])
    save_policy(policy, tmp_path)
    assert load_policy(tmp_path).interface == policy.interface
    BROKEN[name](tmp_path)
    with pytest.raises(UserError) as error:
        load_policy(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_number_that_never_varied_acts_as_it_was_shown_and_is_not_scored() -> None:
    """Whatever the network makes of it, and however loud the noise: MetaWorld's gripper, WidowX's tilt."""
    shown = np.random.default_rng(0).normal(size=(50, 3))
    shown[:, 1] = 0.25
    action = fit(shown, "mean_std", FIXED_SCALE)
    assert moving(action) == [0, 2] and moving(fit(shown[:, 1:2], "mean_std", FIXED_SCALE)) == [0]
    made = small_policy()
    normalization = made.normalization._replace(action=action)
    policy = FlowPolicy(made.backbone, made.tokenizer, made.prompt, normalization, made.replan, made.denoise_steps)
    process = Process("hybrid", "env", "sum", None)
    context = policy.encode(random_observation(policy, 5))
    normals = keyed_normals("chunk", [(0, i) for i in range(5)], (5, 6, 3))
    decision = policy.decide(context, normals, torch.rand(5), Noise("flow_sde", 1.5, 0, 0), process)
    assert (decision.actions[..., 1] - 0.25).abs().max() < 0.01 < decision.actions[..., 0].std()
    rows, steps = decision.stochastic.nonzero(as_tuple=True)
    for number, scored in ((0, True), (1, False)):
        other = decision.states.clone()
        other[rows, steps + 1, :, number] += 1
        again = policy(context, other, decision.stochastic, Noise("flow_sde", 1.5, 0, 0), process)
        assert ((again.log_prob - decision.log_prob).abs().max() > 1e-3) == scored

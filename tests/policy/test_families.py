"""Every model family through the same contract: rollout, training, the cached context, SFT, RL and the folder."""

import json

import numpy as np
import pytest
import torch

from pirl_core import named
from pirl_core.flow.chain import Noise
from pirl_core.params.sections import Sft
from pirl_core.policy.backbone import new_backbone, new_shape
from pirl_core.policy.context import Context, DataSizes, Inputs
from pirl_core.policy.flow_policy import FlowPolicy, Process, keyed_normals
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.policy.normalize import Affine, Normalization
from pirl_core.policy.tokenizer import Prompt, build_tokenizer
from pirl_core.rl.collect import collect
from pirl_core.rl.rollout import take
from pirl_core.rl.train import noise_at, parameter_groups, process_of
from pirl_core.rl.update import update
from pirl_core.sft.build import build_policy
from pirl_core.sft.train import train_sft
from pirl_core.training.learner import Learner
from pirl_core.types import Episode
from tests.rl.test_rl import rl_params
from tests.sft.test_sft import BASE, ENV, POLICY, learnable
from tests.worlds import INSTRUCTIONS, NUMBERS_ALONE, Bandit, random_observation, session

FAMILIES = [name for name in named.known(named.FAMILIES, "family") if name not in NUMBERS_ALONE]
"""Those that see and read; mlp, which does not, has tests of its own."""
COUNT = 5
NORMALS = keyed_normals("chunk", [(0, i) for i in range(COUNT)], (5, 6, 3))


def make(family: str, cameras: int = 2, in_prompt: bool = False) -> FlowPolicy:
    """The smallest size, every parameter far from its initial value."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(INSTRUCTIONS, numbers=in_prompt)
    data = DataSizes(32, cameras, tokenizer.get_vocab_size(), 12, 4, 3, 6)
    same = Normalization(Affine([0.1] * 4, [0.5] * 4), Affine([0.2] * 3, [0.6] * 3), 0)
    prompt: Prompt = "words_state" if in_prompt else "words"
    policy = FlowPolicy(new_backbone(new_shape(family, "nano", data)), tokenizer, prompt, same, 4, 4)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.15)
    return policy.eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("noise", "mdp", "critic"),
    [
        (Noise("flow_sde", 0.5, 0, 0), "hybrid", "vlm"),
        (Noise("flow_sde", 0.5, 0, 0), "two_layer", "expert"),
        (Noise("learned", 0, 0.08, 0.16), "one_layer", "expert"),
    ],
)
def test_training_repeats_the_rollout(family, noise, mdp, critic):
    """The first ratio is 1, from the stored context and from a new one; the frozen VLM gets no gradient."""
    policy, process = make(family), Process(mdp, "env", "sum", critic)
    policy.backbone.freeze_vlm()
    policy.add_heads(process, 4, noise.rule == "learned")
    observation = random_observation(policy, COUNT)
    with torch.no_grad():
        stored = policy.encode(observation)
    made = policy.decide(stored, NORMALS, torch.linspace(0, 0.99, COUNT), noise, process)
    rows = torch.tensor([4, 1, 3])
    gradients = []
    for context in (Context(*(part[rows] for part in stored)), policy.encode(take(observation, rows.numpy()))):
        policy.zero_grad()
        again = policy(context, made.states[rows], made.stochastic[rows], noise, process)
        ratio = (again.log_prob - made.log_prob[rows]).exp()
        assert (ratio - 1).abs().max() < 1e-5 * max(1.0, made.log_prob.abs().max().item())
        torch.testing.assert_close(again.value, made.value[rows], atol=1e-5, rtol=1e-5)
        (again.log_prob.sum() + again.value.square().sum()).backward()
        gradients.append({n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None})
    frozen = {id(p) for module in policy.backbone.vlm_modules for p in module.parameters()}
    assert frozen and all(p.grad is None for p in policy.parameters() if id(p) in frozen)
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    for name, gradient in gradients[0].items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-4 * max(1.0, scale), rtol=1e-4)


@pytest.mark.parametrize("size", ["nano", "tiny", "S", "M", "L"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_size_runs_forwards_and_backwards(family, size):
    """All parts of each network fit each other, with its VLM in training, as SFT has it."""
    backbone = new_backbone(new_shape(family, size, DataSizes(32, 1, 20, 6, 4, 3, 5)))
    valid = torch.ones(2, 6, dtype=torch.bool)
    context = backbone.encode(Inputs(torch.rand(2, 1, 3, 32, 32), valid.long(), valid, torch.rand(2, 4)))
    velocity, _ = backbone.velocity(context, torch.rand(2, 5, 3), torch.tensor([0.1, 0.9]))
    assert velocity.shape == (2, 5, 3)
    velocity.square().sum().backward()
    gradients = [parameter.grad for parameter in backbone.parameters() if parameter.grad is not None]
    assert len(gradients) > 10 and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_each_family_sees(family):
    """Images and words always; the state too, but for π0.5 unless its prompt tells it."""
    for in_prompt in (False, True) if family == "pi05" else (False,):
        policy = make(family, in_prompt=in_prompt)
        observation = random_observation(policy, 2)
        normals = NORMALS[:2, 0]
        with torch.no_grad():
            base = policy.act(policy.encode(observation), normals)
            for changed, seen in (
                (observation._replace(images=255 - observation.images), True),
                (observation._replace(instructions=observation.instructions[::-1]), True),
                (observation._replace(state=observation.state + 0.3), family != "pi05" or in_prompt),
            ):
                assert ((policy.act(policy.encode(changed), normals) - base).abs().max() > 1e-5) == seen


@pytest.mark.parametrize("family", FAMILIES)
def test_folder_round_trip_is_bit_equal(family, tmp_path):
    policy = make(family)
    save_policy(policy, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["backbone"] == family
    loaded = load_policy(tmp_path)
    assert loaded.backbone.shape == policy.backbone.shape
    observation = random_observation(policy, 3)
    with torch.no_grad():
        ours, theirs = (p.act(p.encode(observation), NORMALS[:3, 0]) for p in (policy, loaded))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_learns_by_sft_and_by_rl(family, tmp_path):
    """Demonstrations, then PPO on the bandit: the flow-matching loss and the distance to the target fall."""
    torch.set_num_threads(1)
    changes = POLICY.model_copy(update={"backbone": family, "state_in_prompt": family == "pi05"})
    policy = build_policy(ENV.model_copy(update={"cameras": []}), changes, learnable(cameras=0), INSTRUCTIONS, 0).policy
    sft = Sft(**(BASE | {"steps": 60, "batch_size": 32, "log_every": 15, "image_shift": 0}))
    with session(tmp_path, sft.steps) as opened:
        train_sft(policy, learnable(cameras=0), [], sft, 0, opened)
    rows = [json.loads(line) for line in (tmp_path / "log/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["losses/flow_matching"] < 0.8 * rows[1]["losses/flow_matching"]

    rl = rl_params(iterations=12, episodes_per_iteration=128, minibatch_size=64, actor_lr=1e-3)
    process, noise = process_of(rl), noise_at(rl, 0)
    policy.backbone.freeze_vlm()
    policy.add_heads(process, 1, False)
    policy.eval()
    learner = Learner(policy, parameter_groups(policy, rl), 0.0, 1.0, "fp32", 0)
    rewards = []
    for iteration in range(rl.iterations):
        episodes = [Episode("bandit", index) for index in range(rl.episodes_per_iteration)]
        key = (0, 2, iteration)
        rollout, share, _ = collect(policy, Bandit(4, 0.8), episodes, noise, process, rl, key)
        rewards.append(rollout.samples.target.mean().item())
        rng = np.random.default_rng(iteration)
        metrics = update(learner, rollout, share, noise, process, rl, rng, False, iteration)
        assert metrics["losses/first_ratio_error"] < 1e-4
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.05

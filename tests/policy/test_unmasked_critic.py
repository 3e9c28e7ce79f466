"""The official critic after the VLM, against the official forward pass by hand: in float64, on all camera slots."""

import pytest
import torch
import torch.nn.functional as F

from pirl_core.errors import UserError
from pirl_core.flow.chain import Noise
from pirl_core.policy.backbone import new_backbone, new_shape
from pirl_core.policy.context import DataSizes
from pirl_core.policy.families.pi0.network import Pi0
from pirl_core.policy.flow_policy import FlowPolicy, Process, keyed_normals
from tests.policy.pi0_reference import Joint, attention
from tests.worlds import random_observation, small_policy

PROCESS = Process("hybrid", "env", "sum", "vlm_unmasked")
WORDS = 9


def by_hand(network: Pi0, images: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """Hidden states (3 patches of slots + WORDS, W) of one sample. A row that may see nothing has equal weights."""
    joint, shape = Joint(network), network.shape
    slots = torch.cat([images, torch.full((3 - len(images), *images.shape[1:]), -1.0)])
    name = "pi0.model.vlm.language_model"
    table = joint.weights[f"{name}.embed_tokens.weight"]
    padded = torch.tensor(tokens + [0] * (WORDS - len(tokens)))
    h = torch.cat([joint.images(slots[None])[0], table[padded] * shape.vlm_width**0.5])[None]
    patches = (shape.image_size // shape.patch) ** 2
    seen = torch.zeros(3 * patches + WORDS, dtype=torch.bool)
    seen[: len(images) * patches] = True
    seen[3 * patches : 3 * patches + len(tokens)] = True
    positions = (seen.cumsum(0) - 1).double()[None]
    for i in range(shape.vlm_layers):
        layer = f"{name}.layers.{i}"
        normed, _ = joint.rms_norm(f"{layer}.input_layernorm", h, None)
        query, key, value = (
            joint.linear(f"{layer}.self_attn.{p}_proj", normed).unflatten(-1, (-1, shape.head_dim)) for p in "qkv"
        )
        mixed = torch.empty(1, len(seen), shape.heads * shape.head_dim, dtype=torch.float64)
        some = attention(joint.rotate(query, positions), joint.rotate(key, positions), value, seen[None, None])
        mixed[:, seen] = some[:, seen]
        mixed[:, ~seen] = value.mean(1).repeat_interleave(shape.heads // shape.kv_heads, 1).flatten(1)[:, None]
        h = h + joint.linear(f"{layer}.self_attn.o_proj", mixed)
        normed, _ = joint.rms_norm(f"{layer}.post_attention_layernorm", h, None)
        opened = F.gelu(joint.linear(f"{layer}.mlp.gate_proj", normed), approximate="tanh")
        h = h + joint.linear(f"{layer}.mlp.down_proj", opened * joint.linear(f"{layer}.mlp.up_proj", normed))
    normed, _ = joint.rms_norm(f"{name}.norm", h, None)
    final: torch.Tensor = normed[0]
    return final


def policy_of(cameras: int, pi05: bool, critic: str = "vlm_unmasked") -> FlowPolicy:
    policy = small_policy(cameras=cameras, stem="patch", pi05=pi05, text_length=WORDS)
    policy.add_heads(PROCESS._replace(critic=critic), 4, False)
    return policy


@pytest.mark.parametrize("pi05", [False, True])
@pytest.mark.parametrize("cameras", [1, 2, 3])
def test_the_pooled_output_is_the_official_mean(cameras: int, pi05: bool) -> None:
    """Over the patches of the cameras that exist and every slot of the prompt, empty ones included."""
    policy = policy_of(cameras, pi05)
    assert isinstance(policy.backbone, Pi0)
    inputs = policy.inputs(random_observation(policy, 3))
    with torch.no_grad():
        pooled = policy.backbone.encode(inputs).pooled
    for row in range(3):
        words = inputs.tokens[row][inputs.tokens_valid[row]].tolist()
        assert len(words) < WORDS
        hidden = by_hand(policy.backbone, inputs.images[row], words)
        patches = (len(hidden) - WORDS) // 3
        mean = torch.cat([hidden[: cameras * patches], hidden[3 * patches :]]).mean(0)
        torch.testing.assert_close(pooled[row].double(), mean, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("pi05", [False, True])
def test_actions_and_the_rest_of_the_context_stay_what_they_were(pi05: bool) -> None:
    """Padding is seen by no word, no picture and no action; absent cameras are not kept."""
    official, plain = policy_of(1, pi05), policy_of(1, pi05, "vlm")
    observation = random_observation(official, 3)
    normals = keyed_normals("chunk", [(0,), (1,), (2,)], official.chunk_shape)
    with torch.no_grad():
        ours, theirs = (policy.encode(observation) for policy in (official, plain))
        actions = [policy.act(policy.encode(observation), normals) for policy in (official, plain)]
    torch.testing.assert_close(*actions, atol=1e-5, rtol=1e-4)
    length = theirs.valid.shape[1]
    assert torch.equal(ours.valid[:, :length], theirs.valid) and not ours.valid[:, length:].any()
    assert ours.valid.shape[1] == 4 + WORDS  # four patches of the one camera
    assert not torch.allclose(ours.pooled, theirs.pooled, atol=1e-3)


def test_the_critic_reads_it_alone_and_learns() -> None:
    policy = policy_of(2, True)
    context = policy.encode(random_observation(policy, 3))
    noise = Noise("flow_sde", 0.5, 0.04, 0.1)
    normals = torch.randn(3, policy.denoise_steps + 1, *policy.chunk_shape)
    decision = policy.decide(context, normals, torch.rand(3), noise, PROCESS)
    assert policy.critic is not None
    torch.testing.assert_close(decision.value, policy.critic(context.pooled).squeeze(-1))
    again = policy(context, decision.states, decision.stochastic, noise, PROCESS)
    torch.testing.assert_close(again.value, decision.value)
    again.value.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.critic.parameters())


@torch.no_grad()
def test_it_runs_without_cameras_in_bf16_and_on_the_meta_device() -> None:
    blind = policy_of(0, False)
    assert blind.encode(random_observation(blind, 2)).valid.shape == (2, WORDS)
    policy = policy_of(1, True)
    inputs = policy.inputs(random_observation(policy, 3))
    exact = policy.backbone.encode(inputs).pooled
    half = policy.backbone.to(torch.bfloat16).encode(inputs).pooled
    torch.testing.assert_close(half, exact, atol=0.2, rtol=0.1)
    assert policy.to("meta").backbone.encode(type(inputs)(*(part.to("meta") for part in inputs))).pooled.is_meta


@pytest.mark.parametrize("family", ["smolvla", "groot"])
def test_other_families_refuse_it_in_one_line(family: str) -> None:
    policy = small_policy()
    policy.backbone = new_backbone(new_shape(family, "nano", DataSizes(32, 1, 30, 9, 4, 3, 6)))
    with pytest.raises(UserError, match=f"rl.critic = vlm_unmasked: .* which {family} has not; set vlm or expert"):
        policy.add_heads(PROCESS, 4, False)

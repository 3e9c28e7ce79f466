"""SFT: it learns what can be learnt, repeats itself bit for bit, and never looks past the end of an episode."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from pirl_core.data.domains import joined
from pirl_core.data.lerobot import Frames, Pictures, action_chunks, pictures, read_dataset, write_dataset
from pirl_core.envs.metaworld.facts import FACTS
from pirl_core.flow import path
from pirl_core.params.sections import Env, Policy, Sft
from pirl_core.policy.flow_policy import FlowMatching, FlowPolicy, keyed_normals
from pirl_core.sft.batches import Batch, mixed
from pirl_core.sft.build import build_policy
from pirl_core.sft.train import batch_loss, demonstrated, train_sft
from pirl_core.training.learner import Learner
from pirl_core.types import Observation
from tests.data.test_data import make_episode
from tests.worlds import INSTRUCTIONS, session

ENV = Env(
    benchmark="metaworld",
    shift="none",
    tasks=["reach-v3"],
    episode_steps=10,
    cameras=["corner2"],
    image_size=32,
    fast_render=True,
    object_state=False,
    keys={},
    frame_stack=1,
    sim_backend="cpu",
)
POLICY = Policy(
    backbone="pi0", size="nano", pretrained=None, revision=None, tokenizer="words", state_in_prompt=False,
    normalization="mean_std", normalization_from="data", delta_actions=0, squash=False, horizon=4, replan=4,
    denoise_steps=4,
)  # fmt: skip
BASE: dict[str, Any] = {
    "steps": 3, "batch_size": 8, "sim_share": None, "micro_batch_size": None, "lr": 3e-3, "warmup_steps": 0,
    "final_lr_fraction": 0.1, "weight_decay": 0.0, "max_grad_norm": 1.0, "tau_alpha": 1.5, "tau_beta": 1.0,
    "image_shift": 2, "image_crop": 0.05, "image_rotation": 5.0, "image_brightness": 0.3, "image_contrast": 0.4,
    "image_saturation": 0.5, "image_hue": 0.08, "precision": "fp32", "activation_checkpointing": False,
    "compile": False, "ema_decay": None, "log_every": 1,
}  # fmt: skip
TARGETS = np.array([[0.8, -0.8, 0.5, 1.0], [-0.8, 0.8, -0.5, -1.0], [0.8, 0.8, -0.5, 1.0]], np.float32)


def learnable(episodes: int = 12, length: int = 8, cameras: int = 1) -> Frames:
    """The action follows from the instruction (which target) and the state (how much of it)."""
    rng = np.random.default_rng(0)
    count = episodes * length
    episode = np.repeat(np.arange(episodes), length)
    task = episode % 3
    state = rng.uniform(-1, 1, (count, 4)).astype(np.float32)
    images = rng.integers(0, 256, (count, cameras, 32, 32, 3), np.uint8)
    actions = TARGETS[task] * (1 + state[:, :1]) / 2
    return Frames(images, state, actions, episode, np.tile(np.arange(length), episodes), task, INSTRUCTIONS)


def train(folder: Path, frames: Frames, seed: int = 0, **changes: Any) -> tuple[FlowPolicy, list[float]]:
    """The trained policy and its logged losses. One process has one precision, so the choice is forgotten first."""
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    sft = Sft(**(BASE | changes))
    env = ENV if frames.images.shape[1] else ENV.model_copy(update={"cameras": []})
    policy = build_policy(env, POLICY, frames, INSTRUCTIONS, seed).policy
    with session(folder, sft.steps) as opened:
        train_sft(policy, frames, env.cameras, sft, seed, opened)
    AcceleratorState._reset_state(reset_partial_state=True)
    rows = [json.loads(line) for line in (folder / "log/metrics.jsonl").read_text().splitlines()]
    assert rows[0].keys() == {"step", *demonstrated(frames)} and rows[0]["step"] == 0
    return policy, [row["losses/flow_matching"] for row in rows[1:]]


def same(one: FlowPolicy, other: FlowPolicy) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_pictures_on_disk_train_like_pictures_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, whether what was decoded is kept or not."""
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    episodes = [make_episode(rng, task, length, cameras=1) for task, length in ((0, 9), (1, 6), (2, 8))]
    write_dataset(tmp_path / "data", episodes, ["corner2"], FACTS)
    found = []
    for held in (None, 0, 2**30):
        monkeypatch.setattr(pictures, "HELD_BYTES", held or 0)
        frames = read_dataset(tmp_path / "data", ["corner2"], object_state=False)
        assert isinstance(frames.images, Pictures)
        frames = frames._replace(
            images=np.asarray(frames.images) if held is None else frames.images, tasks=INSTRUCTIONS
        )
        policy, losses = train(tmp_path / str(held), frames, steps=4, batch_size=6)
        found.append((losses, {name: value.tolist() for name, value in policy.state_dict().items()}))
    assert found[0] == found[1] == found[2]


def test_it_learns_what_can_be_learnt(tmp_path: Path) -> None:
    """The loss falls, and the chunks that the policy then draws are the demonstrated ones, told by words and state."""
    frames = learnable(episodes=150, length=1, cameras=0)
    policy, losses = train(tmp_path, frames, steps=300, batch_size=32, log_every=50)
    assert losses[-1] < 0.4 * losses[0], losses
    state = np.random.default_rng(1).uniform(-1, 1, (30, 4)).astype(np.float32)
    task = np.arange(30) % 3
    images = np.zeros((30, 0, 32, 32, 3), np.uint8)
    observation = Observation(images, state, [INSTRUCTIONS[index] for index in task])
    normals = keyed_normals("chunk", [(i,) for i in range(30)], (4, 4))
    chosen = policy.act(policy.encode(observation), normals).numpy()[:, 0]
    error = np.abs(chosen - TARGETS[task] * (1 + state[:, :1]) / 2).mean()
    blind = np.abs(frames.actions - frames.actions.mean(0)).mean()
    assert error < 0.5 * blind, (error, blind)


def test_equal_seeds_give_equal_bits(tmp_path: Path) -> None:
    frames = learnable()
    one, again, other = (train(tmp_path / str(i), frames, seed) for i, seed in enumerate((0, 0, 1)))
    assert same(one[0], again[0]) and one[1] == again[1]
    assert not same(one[0], other[0]) and one[1] != other[1]


def test_a_share_of_all_is_no_mixture(tmp_path: Path) -> None:
    """Bit for bit what the first domain alone gives; any other share learns something else."""
    alone = learnable()
    both, count = joined(alone, learnable(episodes=3)), len(alone.state)
    found = {}
    for share, frames, sim in ((None, alone, None), (1.0, both, count), (0.5, both, count), (0.0, both, count)):
        AcceleratorState._reset_state(reset_partial_state=True)
        found[share] = build_policy(ENV, POLICY, alone, INSTRUCTIONS, 0).policy
        with session(tmp_path / str(share), 3) as opened:
            sft = Sft.model_validate(BASE | {"sim_share": share})
            train_sft(found[share], frames, ENV.cameras, sft, 0, opened, sim)
    assert same(found[None], found[1.0])
    assert not same(found[1.0], found[0.5]) and not same(found[0.5], found[0.0])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_samples_are_of_the_first_domain_with_the_chance_that_was_asked_for(share: float) -> None:
    """Within four standard deviations of the binomial; the others are all there are, equally often."""
    rows = np.arange(20_000) % 40
    drawn = mixed(np.random.default_rng(0), rows, 40, 45, share)
    stayed = drawn < 40
    assert abs(stayed.mean() - share) <= 4 * (share * (1 - share) / len(rows)) ** 0.5
    assert np.array_equal(drawn[stayed], rows[stayed])
    counts = np.bincount(drawn[~stayed] - 40, minlength=5) if share < 1 else np.zeros(5)
    expected = (~stayed).sum() / 5
    assert len(counts) == 5 and (np.abs(counts - expected) <= 5 * expected**0.5).all()


def test_nothing_beyond_an_episodes_end_is_learnt() -> None:
    """A field that is blind to its own noisy actions meets an action only as a target: real ones pull, padded never."""
    AcceleratorState._reset_state(reset_partial_state=True)
    frames = learnable(length=3)
    policy = build_policy(ENV, POLICY, frames, INSTRUCTIONS, 0).policy
    with torch.no_grad():
        policy.backbone.get_parameter("pi0.embed_action_time.action_in_proj.weight").zero_()
    learner = Learner(
        FlowMatching(policy.backbone), [{"params": list(policy.parameters()), "lr": 0.0}], 0, 1, "fp32", 0
    )
    index, real = action_chunks(frames, POLICY.horizon)
    assert real[:3].tolist() == [[True, True, True, False], [True, True, False, False], [True, False, False, False]]
    rows = np.arange(9)
    observation = Observation(frames.images[rows], frames.state[rows], [frames.instructions[row] for row in rows])
    action = torch.from_numpy(frames.actions[index[rows]]).requires_grad_()
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(action.shape, np.float32))
    tau = path.sample_tau(np.random.default_rng(1), len(rows), 1.5, 1.0)
    batch_loss(learner, policy, Batch(observation, action, noise, tau, torch.from_numpy(real[rows]))).backward()
    assert action.grad is not None
    pull = action.grad.abs().sum(-1).numpy()
    assert (pull[real[rows]] > 0).all()
    assert (pull[~real[rows]] == 0).all()


@pytest.mark.parametrize("micro", [1, 2, 3])
def test_gradients_of_micro_batches_add_up(micro: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient that the optimiser gets, to 1e-6 of its largest number, or of 1."""
    frames = learnable(length=3)
    found: list[list[torch.Tensor]] = []

    def keep(learner: Learner, loss: torch.Tensor, total: float, factor: float) -> float:
        learner.accelerator.backward(loss)
        parameters = [p for p in learner.module.parameters() if p.grad is not None]
        found.append([p.grad.clone() for p in parameters if p.grad is not None])
        learner.discard()
        return 0.0

    monkeypatch.setattr(Learner, "step", keep)
    for size in (None, micro):
        train(tmp_path / str(size), frames, batch_size=7, steps=1, micro_batch_size=size)
    whole, parts = found
    largest = max(float(g.abs().max()) for g in whole)
    assert largest > 1e-2
    for one, two in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6 * max(1.0, largest), rtol=0)


def test_the_saved_policy_is_the_moving_average(tmp_path: Path) -> None:
    """By hand from the weights after each step: ē ← d ē + (1 − d) θ, from the initial weights on."""
    frames, decay = learnable(), 0.7
    average = build_policy(ENV, POLICY, frames, INSTRUCTIONS, 0).policy
    for steps in (1, 2, 3):
        now, _ = train(tmp_path / str(steps), frames, steps=steps, final_lr_fraction=1.0)
        for mean, value in zip(average.parameters(), now.parameters(), strict=True):
            mean.data = decay * mean.data + (1 - decay) * value.data
    saved, _ = train(tmp_path / "average", frames, steps=3, final_lr_fraction=1.0, ema_decay=decay)
    for mean, value in zip(average.parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(value, mean, atol=1e-6, rtol=1e-6)


def test_bf16_runs_over_fp32_weights(tmp_path: Path) -> None:
    frames = learnable()
    half, low = train(tmp_path / "a", frames, precision="bf16", steps=5)
    full, high = train(tmp_path / "b", frames, steps=5)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    assert not same(half, full)
    assert low == pytest.approx(high, rel=0.05)


def test_the_range_of_the_demonstrations_is_told() -> None:
    """Three of 2, 3 and 7 steps, whatever their numbers are."""
    frames = learnable(episodes=3, length=4)._replace(episode=np.repeat([5, 0, 9], [2, 3, 7]))
    told = demonstrated(frames)
    assert told["data/episodes"] == 3 and told["data/episodic_length"] == 4
    assert told["data/episodic_length_std"] == pytest.approx((14 / 3) ** 0.5)


def test_squashed_actions_go_as_far_as_the_simulator_takes_them() -> None:
    frames = learnable()
    frames = frames._replace(actions=0.3 * frames.actions)
    settings = POLICY.model_copy(update={"normalization": "min_max", "squash": True})
    policy = build_policy(ENV, settings, frames, INSTRUCTIONS, 0).policy
    far = torch.full((1, policy.denoise_steps + 1, *policy.chunk_shape), 50.0)
    context = policy.encode(Observation(frames.images[:1], frames.state[:1], INSTRUCTIONS[:1]))
    assert torch.equal(policy.executed(far, context), torch.ones(1, POLICY.replan, 4))

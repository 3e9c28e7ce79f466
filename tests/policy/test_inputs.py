"""What reaches the network: images, prompts, normalised and padded numbers; and what comes back as actions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pirl_core.flow.chain import Noise
from pirl_core.params.sizes import Mode
from pirl_core.policy.flow_policy import Process, keyed_normals
from pirl_core.policy.images import network_images
from pirl_core.policy.normalize import fit, published, relative
from pirl_core.policy.tokenizer import build_tokenizer, prompt_text, state_bins, tokenize
from tests.worlds import random_observation, small_policy


def test_a_frame_of_the_right_size_is_only_scaled():
    frames = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(2, 1, 4, 4, 3)
    images = network_images(frames, 4, "openpi")
    assert images.shape == (2, 1, 3, 4, 4)
    torch.testing.assert_close(images[0, 0, :, 1, 2], torch.tensor([-1.0, -0.6, 1.0]))
    assert network_images(torch.zeros(2, 0, 0, 0, 3, dtype=torch.uint8), 4, "openpi").shape[:2] == (2, 0)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (20, 20), (90, 160)])
def test_resizing_is_pillows_and_keeps_the_aspect(height, width):
    """openpi's policies saw Pillow's bilinear resize on black, centred."""
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3)), np.ones((4, 4, 1)))
    frame = smooth[:height, :width].astype(np.uint8)
    size = 32
    inner = (int(width * size / max(height, width)), int(height * size / max(height, width)))
    canvas = Image.new("RGB", (size, size))
    canvas.paste(
        Image.fromarray(frame).resize(inner, Image.Resampling.BILINEAR),
        ((size - inner[0]) // 2, (size - inner[1]) // 2),
    )
    ours = (network_images(torch.from_numpy(frame)[None, None], size, "openpi")[0, 0].permute(1, 2, 0) + 1) * 127.5
    apart = np.abs(ours.round().numpy() - np.asarray(canvas, np.float32))
    assert apart.max() <= 1


def test_smolvlas_frames_lie_in_the_lower_right_corner():
    frame = torch.full((1, 1, 4, 8, 3), 255, dtype=torch.uint8)
    image = network_images(frame, 4, "lerobot")[0, 0, 0]
    assert image.tolist() == [[-1.0] * 4] * 2 + [[1.0] * 4] * 2
    frame[..., :4, :] = 0
    # Four columns of each half become one pixel pair; without antialiasing a pixel sees its two neighbours alone.
    assert network_images(frame, 4, "lerobot")[0, 0, 0, 2].tolist() == [-1.0, -1.0, 1.0, 1.0]


@pytest.mark.parametrize(("mode", "scale"), [("mean_std", 8 / 12**0.5), ("quantile", 0.98 * 4), ("min_max", 4.0)])
def test_modes_of_normalisation(mode: Mode, scale: float):
    values = np.stack([np.linspace(-3, 5, 100_001), np.full(100_001, 2.0)], 1)
    found = fit(values, mode)
    np.testing.assert_allclose([found.center[0], found.scale[0]], [1.0, scale], rtol=1e-4)
    # A constant must not be divided by nothing.
    assert found.center[1] == 2.0 and found.scale[1] == 0.1


@given(
    mode=st.sampled_from(["mean_std", "quantile", "min_max"]),
    low=st.floats(-5, 5),
    spread=st.floats(0.01, 10),
    x=st.floats(-20, 20),
)
@settings(max_examples=60, deadline=None)
def test_published_statistics_mean_what_openpi_computes(mode, low, spread, x):
    stats = {"mean": [low], "std": [spread], "q01": [low], "q99": [low + spread], "min": [low], "max": [low + spread]}
    found = published(stats, mode, 1e-6)
    ours = (x - found.center[0]) / found.scale[0]
    theirs = (x - low) / (spread + 1e-6) * (1 if mode == "mean_std" else 2) - (0 if mode == "mean_std" else 1)
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)


def test_relative_actions():
    chunks, state = np.ones((1, 2, 3), np.float32), np.array([[0.25, 4.0, 9.0]], np.float32)
    np.testing.assert_allclose(relative(chunks, state, 2), [[[0.75, -3, 1], [0.75, -3, 1]]])
    assert chunks.min() == 1


def test_prompts_as_the_checkpoints_know_them():
    assert prompt_text("pi0", " pick_up the\ncup ", []) == "pick up the cup\n"
    assert prompt_text("smolvla", "open it", []) == "open it\n"
    edge = [-1.2, -1.0, -0.9999, 0.0, 0.995, 1.0, 7.0]
    assert state_bins(edge) == [-1, 0, 0, 128, 255, 255, 255]
    assert prompt_text("pi05_state", "open_it", [-1.0, 0.0]) == "Task: open it, State: 0 128;\nAction: "


def test_prompts_hold_no_more_than_their_words():
    words = build_tokenizer(["open the door"], numbers=True)
    ids, valid = tokenize(words, "words", ["open", "open the window"], np.zeros((2, 1)), 9)
    assert ids.shape == (2, 4) and valid.tolist() == [[True, True, False, False], [True] * 4]
    assert words.id_to_token(int(ids[1, 3])) == "<unk>"
    ids, _ = tokenize(words, "words_state", ["open"], np.array([[0.0, -3.0]]), 9)
    assert [words.id_to_token(int(i)) for i in ids[0]] == ["<start>", "open", "128", "-1"]
    assert tokenize(words, "words_state", ["open"], np.array([[0.0, -3.0]]), 3)[0].shape == (1, 3)


def padded(**changes):
    """A simulator of 4 state and 3 action numbers under a network of 8 and 5."""
    sizes = {"state_dim": 8, "action_dim": 5, "state_numbers": 4, "action_numbers": 3, **changes}
    return small_policy(**sizes)


def test_actions_come_back_as_they_went():
    policy = padded(delta=2)
    observation = random_observation(policy, 6)
    inputs = policy.inputs(observation)
    assert inputs.state.shape == (6, 8) and (inputs.state[:, 4:] == 0).all()
    actions = torch.randn(6, 6, 3)
    known = policy.normalize_actions(actions, torch.from_numpy(observation.state))
    assert known.shape == (6, 6, 5) and (known[:, :, 3:] == 0).all()
    first = (actions[0, 0, 0] - observation.state[0, 0] - 0.2) / 0.6
    torch.testing.assert_close(known[0, 0, 0], first)
    back = policy.executed(known[:, None], policy.encode(observation))
    torch.testing.assert_close(back, actions[:, :4], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mdp", ["hybrid", "two_layer", "one_layer"])
def test_padding_never_enters_the_log_probability(mdp):
    """Only the simulator's numbers of the executed steps count (7 of 32, 5 of 50): the sum by hand."""
    policy, noise = padded(), Noise("flow_sde", 0.5, 0, 0)
    process = Process(mdp, "env", "sum", None)
    with torch.no_grad():
        context = policy.encode(random_observation(policy, 2))
        normals = keyed_normals("chunk", [(0,), (1,)], (5, 6, 5))
        made = policy.decide(context, normals, torch.tensor([0.1, 0.9]), noise, process)
        assert made.actions.shape == (2, 4, 3)
        terms = torch.zeros(2, 4)
        for k in range(4):
            v, _ = policy.backbone.velocity(context, made.states[:, k], torch.full((2,), k / 4))
            tau, x = k / 4, made.states[:, k]
            std = 0.5 if k == 0 else 0.5 * ((4 - k) / (4 * k)) ** 0.5
            # Eq. 8 and 9; at τ = 0 the noise level's denominator is τ₁.
            variance = std**2 / (2 * (1 - tau))
            mean = (tau + 0.25) * (x + (1 - tau) * v) + (1 - tau - 0.25 - variance) * (x - tau * v)
            density = torch.distributions.Normal(mean, std).log_prob(made.states[:, k + 1])
            terms[:, k] = density[:, :4, :3].sum((1, 2))
        start = torch.distributions.Normal(0, 1).log_prob(made.states[:, 0])[:, :4, :3].sum((1, 2))
    expected = {
        "hybrid": terms.gather(1, made.stochastic.int().argmax(1, keepdim=True)),
        "two_layer": terms,
        "one_layer": (start + terms.sum(1))[:, None],
    }[mdp]
    torch.testing.assert_close(made.log_prob, expected, atol=1e-3, rtol=1e-5)

"""GR00T N1.5 as published: its prompt, its images, its files, end to end on a small network of the same classes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import pre_tokenizers

from pirl_core.errors import UserError
from pirl_core.policy.backbone import new_backbone, published_sizes
from pirl_core.policy.context import DataSizes
from pirl_core.policy.families.groot.layout import isaac_keys, lerobot_keys
from pirl_core.policy.families.groot.network import groot_shape
from pirl_core.policy.flow_policy import keyed_normals
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.policy.images import network_images
from pirl_core.policy.tokenizer import image_words, load_tokenizer, prompt_text, tokenize
from pirl_core.sft import build
from tests.checkpoints.test_pretrained import section
from tests.sft.test_sft import ENV, learnable
from tests.worlds import INSTRUCTIONS, random_observation

# Qwen3's words come first, Eagle's are added behind them; the image token is the first of these, as in the release.
ADDED = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>")
IMAGE_TOKEN = 256 + ADDED.index("<IMG_CONTEXT>")
DATA = DataSizes(64, 1, 262, 300, 8, 6, 4)


def tiny_shape(family, size, data):
    assert (family, size) == ("groot", "full")
    return groot_shape("nano", data)._replace(stem="patch", image_token=IMAGE_TOKEN, embodiments=4, embodiment=3)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(build, "published_sizes", lambda family, cameras, horizon: DATA)
    monkeypatch.setattr(build, "new_shape", tiny_shape)


def write_tokenizer(folder, added=ADDED):
    """The files of Eagle's processor: a byte-level vocabulary, merges and added words, no tokenizer.json."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    (folder / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    words = {str(256 + index): {"content": word, "special": True} for index, word in enumerate(added)}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": words, "pad_token": added[0]})
    )


def published_folder(folder, keys):
    torch.manual_seed(0)
    model = new_backbone(tiny_shape("groot", "full", DATA))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.15)
    save_file({keys(name): value for name, value in model.state_dict().items()}, folder / "model.safetensors")
    write_tokenizer(folder)
    return model


def test_the_chat():
    """Eagle 2.5's template for two cameras of three image tokens, and an instruction left as it is."""
    text = prompt_text("groot", "Open it, please", [], image_words(2, 3))
    token = "<IMG_CONTEXT>"
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<image 1><img>{token}{token}{token}</img><image 2><img>{token}{token}{token}</img>Open it, please<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_words_of_the_published_files(tmp_path):
    """Special words are one token each wherever they stand; all other text survives byte by byte."""
    write_tokenizer(tmp_path)
    words = load_tokenizer(tmp_path / "tokenizer.json")
    ids, valid = tokenize(words, "groot", ["Öffne!", "b"], np.zeros((2, 1)), 300, image_words(2, 16))
    assert ((ids == IMAGE_TOKEN) & valid).sum(1).tolist() == [32, 32]
    for row, keep, instruction in zip(ids, valid, ["Öffne!", "b"], strict=True):
        expected = prompt_text("groot", instruction, [], image_words(2, 16))
        assert words.decode(row[keep].tolist(), skip_special_tokens=False) == expected
    first = int((ids[0] == 257).argmax())
    assert (first, int(valid.sum(1)[0] - valid.sum(1)[1])) == (0, len("Öffne!".encode()) - 1)


def test_longest_prompts_fit():
    """Room for Eagle's words around every camera's 256 tokens, in letters even, and for the instruction."""
    for cameras in (1, 3):
        around = prompt_text("groot", "", [], image_words(cameras, 0))
        assert published_sizes("groot", cameras, 16).text_length - 256 * cameras - len(around) > 90


@pytest.mark.parametrize("keys", [isaac_keys, lerobot_keys])
def test_the_release_end_to_end(keys, tmp_path, tiny):
    """Weights and words in the release's files, by ``policy.pretrained`` and our own folder: the same actions."""
    there = published_folder(tmp_path, keys)
    policy, _ = build.build_policy(ENV, section("groot", tmp_path), learnable(), INSTRUCTIONS, 0)
    for name, value in there.state_dict().items():
        assert torch.equal(value, policy.backbone.state_dict()[name]), name
    assert policy.prompt == "groot"
    (tmp_path / "ours").mkdir()
    save_policy(policy, tmp_path / "ours")
    loaded = load_policy(tmp_path / "ours")
    observation, normals = random_observation(policy, 3), keyed_normals("chunk", [(0,), (1,), (2,)], (4, 6))
    inputs = policy.inputs(observation)
    assert (inputs.tokens == IMAGE_TOKEN).sum(1).tolist() == [16, 16, 16]
    with torch.no_grad():
        context = policy.eval().encode(observation)
        actions = [p.eval().act(p.encode(observation), normals) for p in (policy, loaded)]
    assert context.memory.shape[1] == inputs.tokens.shape[1] and torch.equal(context.valid, inputs.tokens_valid)
    assert torch.equal(*actions) and actions[0].shape == (3, 4, 4)


BROKEN = {
    "numbers in another order": (("<IMG_CONTEXT>", *(word for word in ADDED if word != "<IMG_CONTEXT>")), "number 256"),
    "no image words": (ADDED[:3], "the word <img> is missing"),
    "words beyond the model": ((*ADDED, "<quad>"), "beyond the model's 262"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_another_tokenizer_is_told(name, tmp_path, tiny):
    published_folder(tmp_path, isaac_keys)
    added, told = BROKEN[name]
    write_tokenizer(tmp_path, added)
    with pytest.raises(UserError) as error:
        build.build_policy(ENV, section("groot", tmp_path), learnable(), INSTRUCTIONS, 0)
    assert told in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_cut_prompts_are_told(tmp_path, tiny):
    published_folder(tmp_path, isaac_keys)
    policy, _ = build.build_policy(ENV, section("groot", tmp_path), learnable(), INSTRUCTIONS, 0)
    policy.backbone.shape = policy.backbone.shape._replace(text_length=60)
    with pytest.raises(UserError, match=r"image tokens \(id 259\), but 1 cameras of 16 need 16"):
        policy.encode(random_observation(policy, 2))


@pytest.mark.parametrize(("change", "told"), [({"horizon": 5}, "positions"), ({"embodiment": 4}, "slots 0 to 3")])
def test_bounds_are_told_when_a_folder_is_read(change, told, tmp_path, tiny):
    published_folder(tmp_path, isaac_keys)
    policy, _ = build.build_policy(ENV, section("groot", tmp_path), learnable(), INSTRUCTIONS, 0)
    (tmp_path / "ours").mkdir()
    save_policy(policy, tmp_path / "ours")
    config = json.loads((tmp_path / "ours/config.json").read_text())
    config["shape"] |= change
    (tmp_path / "ours/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        load_policy(tmp_path / "ours")
    assert told in str(error.value) and "config.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (224, 224), (120, 161)])
def test_images_are_cropped_and_stretched(height, width):
    """By Pillow, in float: the middle 95 %, bilinear with antialiasing, without regard to the aspect, cut to bytes."""
    frames = np.random.default_rng(0).integers(0, 256, (1, 1, height, width, 3), np.uint8)
    ours = network_images(torch.from_numpy(frames), 224, "isaac")[0, 0]
    kept_height, kept_width = int(0.95 * height), int(0.95 * width)
    top, left = round((height - kept_height) / 2), round((width - kept_width) / 2)
    for channel in range(3):
        whole = Image.fromarray(frames[0, 0, ..., channel].astype(np.float32))
        middle = whole.crop((left, top, left + kept_width, top + kept_height))
        theirs = np.asarray(middle.resize((224, 224), Image.Resampling.BILINEAR)).astype(np.float64)
        found = (ours[channel].double().numpy() + 1) * 127.5
        assert np.abs(found - np.round(found)).max() < 1e-4
        # Pillow rounds its weights; a number that is whole but for rounding may be cut to the one below.
        assert ((theirs - found > -0.01) & (theirs - found < 1.01)).all()

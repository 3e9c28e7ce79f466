"""Published weights in and out, on tiny networks of the same classes and layouts."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from pirl_core.checkpoints.export import export
from pirl_core.checkpoints.layouts import layout_of
from pirl_core.checkpoints.pretrained import load_pretrained
from pirl_core.checkpoints.source import find_checkpoint
from pirl_core.commands import cli
from pirl_core.errors import UserError
from pirl_core.params.sections import Policy
from pirl_core.policy.backbone import new_backbone, new_shape, published_sizes
from pirl_core.policy.context import DataSizes
from pirl_core.policy.flow_policy import FlowPolicy, keyed_normals
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.policy.normalize import Affine, Normalization, published
from pirl_core.policy.tokenizer import Prompt
from pirl_core.sft import build
from tests.sft.test_sft import ENV, learnable
from tests.worlds import INSTRUCTIONS, random_observation

DATA = DataSizes(64, 1, 40, 12, 8, 6, 4)
ROUTES = [("pi0", "openpi"), ("pi0", "lerobot"), ("pi05", "openpi"), ("pi05", "lerobot"), ("smolvla", "lerobot")]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The published networks, but small: their own patch embeddings, padded numbers and prompts."""
    monkeypatch.setattr(build, "published_sizes", lambda family, cameras, horizon: DATA)
    monkeypatch.setattr(build, "new_shape", tiny_shape)


def tiny_shape(family, size, data):
    assert size == "full"
    return new_shape(family, "nano", data)._replace(stem="patch")


def tokenizer(first="<bos>", reverse=False):
    words = sorted({word for text in INSTRUCTIONS for word in text.split()}, reverse=reverse)
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", first, *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def random_policy(family, state_numbers=4, state_dim=DATA.state_dim):
    torch.manual_seed(0)
    normal = Normalization(Affine([0.1] * state_numbers, [0.5] * state_numbers), Affine([0.2] * 4, [0.6] * 4), 0)
    prompt: Prompt = "smolvla" if family == "smolvla" else "pi0"
    policy = FlowPolicy(
        new_backbone(tiny_shape(family, "full", DATA._replace(state_dim=state_dim))), tokenizer(), prompt, normal, 4, 3
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.15)
    return policy.eval()


def published_folder(family, target, folder, **numbers):
    """What somebody else uploaded: weights of a layout, and a tokenizer."""
    (folder / "tokenizer.json").unlink(missing_ok=True)
    policy = random_policy(family, **numbers)
    export(policy.backbone.state_dict(), layout_of(policy, target), folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    return policy


def section(family, folder, **changes):
    return Policy(
        **{
            "backbone": family, "size": "full", "pretrained": str(folder), "revision": None, "tokenizer": str(folder),
            "state_in_prompt": False, "normalization": "quantile", "normalization_from": "data", "delta_actions": 0,
            "squash": False,
            "horizon": 4, "replan": 4, "denoise_steps": 3, **changes,
        }
    )  # fmt: skip


@pytest.mark.parametrize(("family", "target"), ROUTES)
def test_exported_weights_come_back_bit_for_bit(family, target, tmp_path):
    """Out in a published layout, in by ``policy.pretrained``, through our own folder: the same actions."""
    there = published_folder(family, target, tmp_path / "published")
    policy, origin = build.build_policy(ENV, section(family, tmp_path / "published"), learnable(), INSTRUCTIONS, 0)
    assert origin is not None and len(origin.pop("notes")) == 1
    assert origin == {"family": family, "folder": str(tmp_path / "published"), "repo": None, "commit": None}
    for name, value in there.backbone.state_dict().items():
        assert torch.equal(value, policy.backbone.state_dict()[name]), name
    (tmp_path / "ours").mkdir()
    save_policy(policy, tmp_path / "ours")
    loaded = load_policy(tmp_path / "ours")
    observation, normals = random_observation(policy, 3), keyed_normals("chunk", [(0,), (1,), (2,)], (4, 6))
    observation = observation._replace(images=np.random.default_rng(0).integers(0, 256, (3, 1, 48, 32, 3), np.uint8))
    with torch.no_grad():
        actions = [p.eval().act(p.encode(observation), normals) for p in (policy, loaded)]
    assert torch.equal(*actions) and actions[0].shape == (3, 4, 4)


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_a_tied_embedding_may_be_stored_under_either_name(family, tmp_path):
    """LeRobot's files and openpi's differ in which of the two tied tensors they kept; some have both."""
    there = published_folder(family, "openpi", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    head = "paligemma_with_expert.paligemma.lm_head.weight"
    table = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    value = weights.pop(head)
    for names in ([head], [table], [head, table]):
        copies = {name: value.clone() if name == names[-1] else value + 1 for name in names}
        save_file(weights | copies, tmp_path / "model.safetensors")
        policy, _ = build.build_policy(ENV, section(family, tmp_path), learnable(), INSTRUCTIONS, 0)
        for name, expected in there.backbone.state_dict().items():
            assert torch.equal(expected, policy.backbone.state_dict()[name]), name


@pytest.mark.parametrize("mode", ["mean_std", "quantile"])
def test_openpis_statistics_are_ours(mode, tmp_path):
    policy = random_policy("pi0")
    export(policy.backbone.state_dict(), layout_of(policy, "openpi"), tmp_path)
    stats = json.loads((tmp_path / "assets/pirl/norm_stats.json").read_text())["norm_stats"]
    for name, ours in (("state", policy.normalization.state), ("actions", policy.normalization.action)):
        found = published(stats[name], mode, 1e-6)
        np.testing.assert_allclose(found.center, ours.center, atol=1e-9)
        np.testing.assert_allclose(found.scale, ours.scale, atol=1e-9)


@pytest.mark.parametrize(("family", "target"), [*ROUTES, ("groot", "isaac")])
def test_what_others_keep_among_the_weights_is_left_behind_and_told(family, target, tmp_path):
    """RLinf's critic and noise net by its modules' names, and the statistics of LeRobot before its processors."""
    there = random_policy(family)
    export(there.backbone.state_dict(), layout_of(there, target), tmp_path)
    found = find_checkpoint(str(tmp_path))
    other = new_backbone(there.backbone.shape)
    assert load_pretrained(other, found) == []
    weights, inside = load_file(tmp_path / "model.safetensors"), "action_head." if family == "groot" else ""
    noise = "reinflow_explore_noise_net" if family == "groot" else "noise_head"
    extra = {
        f"{inside}value_head.mlp.{layer}.{kind}": torch.ones(3) for layer in (0, 2, 4) for kind in ("weight", "bias")
    }
    extra |= {f"{inside}{noise}.mlp_logvar.0.weight": torch.ones(2, 3), f"{inside}{noise}.logvar_min": torch.ones(())}
    extra |= {
        f"{kind}.{what}": torch.full((4,), torch.inf)
        for kind in ("normalize_inputs", "normalize_targets", "unnormalize_outputs", "model.normalize_inputs")
        for what in ("buffer_action.mean", "so100-red_buffer_observation_state.std")
    }
    save_file(weights | extra, tmp_path / "model.safetensors")
    told = load_pretrained(other, found)
    names = sorted(["value_head", noise, "normalize_inputs", "normalize_targets", "unnormalize_outputs"])
    assert [line.split(" of the weights, ")[0] for line in told] == names
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in there.backbone.state_dict().items())
    save_file(weights | {f"{inside}dsrl_action_noise_net.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="dsrl_action_noise_net"):
        load_pretrained(other, found)


def _weights(change):
    def edit(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return edit


BROKEN = {
    "another family": (lambda f: published_folder("pi05", "openpi", f), "openpi_pi05"),
    "a tensor is missing": (_weights(lambda w: w.pop("action_out_proj.bias")), "1 missing"),
    "a tensor too many": (_weights(lambda w: w.update(strange=torch.zeros(1))), "strange"),
    "another size": (_weights(lambda w: w.update({"action_out_proj.bias": torch.zeros(99)})), "action_out_proj.bias"),
    "not finite": (_weights(lambda w: w["action_out_proj.bias"].fill_(float("nan"))), "not finite"),
    "cut short": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:9999]),
        "cut short",
    ),
    "a pickle": (lambda f: (f / "model.safetensors").rename(f / "weights.pt"), "pirl_core.checkpoints.convert"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    "another tokenizer": (lambda f: tokenizer("<s>").save(str(f / "tokenizer.json")), "<bos>"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_checkpoint_is_told_in_one_line(name, tmp_path):
    published_folder("pi0", "openpi", tmp_path)
    edit, told = BROKEN[name]
    edit(tmp_path)
    with pytest.raises(UserError) as error:
        build.build_policy(ENV, section("pi0", tmp_path), learnable(), INSTRUCTIONS, 0)
    assert told in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("family", "target"), [*ROUTES, ("groot", "isaac")])
def test_a_model_of_our_own_size_goes_out_with_its_stem_and_comes_back(family, target, tmp_path, capsys):
    """By the command; config.json tells the shape, and claims no published size."""
    policy = random_policy(family)
    torch.manual_seed(1)
    policy.backbone = new_backbone(new_shape(family, "nano", DATA))
    (tmp_path / "policy").mkdir()
    save_policy(policy, tmp_path / "policy")
    out = tmp_path / "out"
    assert cli.main(["export", str(tmp_path / "policy"), str(out), "--to", target]) == 0
    assert "pirl_shape" in capsys.readouterr().out
    config = json.loads((out / "config.json").read_text())
    assert "paligemma_variant" not in config
    other = new_backbone(type(policy.backbone.shape)(**config["pirl_shape"]))
    load_pretrained(other, find_checkpoint(str(out)))
    state = other.state_dict()
    assert any(name.startswith("stem.") for name in state)
    assert all(torch.equal(value, state[name]) for name, value in policy.backbone.state_dict().items())


@pytest.mark.parametrize(("family", "target"), [("smolvla", "openpi"), ("groot", "lerobot"), ("pi0", "isaac")])
def test_a_layout_of_another_family_is_refused(family, target):
    with pytest.raises(UserError, match=f"--to {target}: no map from {family} to this layout"):
        layout_of(random_policy(family), target)


def test_isaacs_settings_describe_the_release():
    """The numbers of GR00T-N1.5-3B's own config.json, from the full size."""
    shape = new_shape("groot", "full", published_sizes("groot", 1, 16))
    with torch.device("meta"):
        policy = FlowPolicy(
            new_backbone(shape), tokenizer(), "pi0", Normalization(Affine([0.0], [1.0]), Affine([0.0], [1.0]), 0), 16, 4
        )
    config = layout_of(policy, "isaac").documents["config.json"]
    head = config["action_head_cfg"]
    transformer, attention = head["diffusion_model_cfg"], head["vl_self_attention_cfg"]
    assert (config["action_dim"], config["action_horizon"], config["hidden_size"]) == (32, 16, 2048)
    assert config["backbone_cfg"]["select_layer"] == 12 and "pirl_shape" not in config
    assert (head["hidden_size"], head["input_embedding_dim"], head["backbone_embedding_dim"]) == (1024, 1536, 2048)
    assert (head["max_state_dim"], head["max_action_dim"], head["num_target_vision_tokens"]) == (64, 32, 32)
    assert (transformer["num_attention_heads"], transformer["attention_head_dim"]) == (32, 48)
    assert (transformer["num_layers"], transformer["output_dim"], transformer["dropout"]) == (16, 1024, 0.2)
    assert (attention["num_attention_heads"], attention["attention_head_dim"], attention["num_layers"]) == (32, 64, 4)


def with_prompt(family, prompt, delta=0):
    policy = random_policy(family)
    policy.prompt = prompt
    policy.normalization = policy.normalization._replace(delta=delta)
    return policy


STEPS = {
    ("pi0", "pi0", 0): "rename_observations to_batch pi0_new_line tokenizer device normalizer",
    ("pi0", "pi0", 3): "rename_observations to_batch relative_actions pi0_new_line tokenizer device normalizer",
    ("pi05", "pi0", 0): "rename_observations to_batch pi0_new_line tokenizer device normalizer",
    ("pi05", "pi05_state", 0): "rename_observations to_batch normalizer pi05_prepare_state_tokenizer tokenizer device",
    ("smolvla", "smolvla", 0): "rename_observations to_batch smolvla_new_line tokenizer device normalizer",
}


@pytest.mark.parametrize(("family", "prompt", "delta"), STEPS)
def test_lerobots_processors(family, prompt, delta, tmp_path):
    """The steps of LeRobot 0.4.4's factories by their registered names, with our statistics in the files they name."""
    policy = with_prompt(family, prompt, delta)
    export(policy.backbone.state_dict(), layout_of(policy, "lerobot"), tmp_path / "out")
    after = "unnormalizer absolute_actions device" if delta else "unnormalizer device"
    found = {}
    for name, steps in (("preprocessor", STEPS[family, prompt, delta]), ("postprocessor", after)):
        pipeline = json.loads((tmp_path / f"out/policy_{name}.json").read_text())
        assert pipeline["name"] == f"policy_{name}"
        kinds = [step["registry_name"] for step in pipeline["steps"]]
        assert [kind.removesuffix("_step").removesuffix("_processor") for kind in kinds] == steps.split()
        for index, step in enumerate(pipeline["steps"]):
            found[step["registry_name"]] = step["config"]
            if "normalizer" not in step["registry_name"]:
                assert step.keys() == {"registry_name", "config"}
                continue
            assert step["state_file"] == f"policy_{name}_step_{index}_{step['registry_name']}.safetensors"
            numbers = load_file(tmp_path / "out" / step["state_file"])
            for feature, ours in (("observation.state", "state"), ("action", "action")):
                for theirs, part in (("mean", "center"), ("std", "scale")):
                    assert torch.equal(numbers[f"{feature}.{theirs}"], getattr(policy, f"{ours}_{part}"))
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert found["normalizer_processor"] == {
        "eps": 0.0,
        "features": config["input_features"] | config["output_features"],
        "norm_map": {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
    }
    assert found["unnormalizer_processor"] == found["normalizer_processor"] | {"features": config["output_features"]}
    assert found["tokenizer_processor"]["max_length"] == config["tokenizer_max_length"] == 12
    if delta:
        names = ["action00", "action01", "action02", "action03"]
        assert found["relative_actions_processor"] == {
            "enabled": True, "exclude_joints": names[3:], "action_names": names
        }  # fmt: skip
    # An export with other steps takes its place.
    other = with_prompt(family, prompt, 0 if delta else 2)
    export(other.backbone.state_dict(), layout_of(other, "lerobot"), tmp_path / "out")
    assert len(list((tmp_path / "out").glob("policy_*.safetensors"))) == 2

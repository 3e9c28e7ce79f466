"""Checkpoints in published layouts, made up small: read strictly, converted safely, exported whole or not at all."""

import hashlib
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pirl_core.checkpoints.export import Layout, export
from pirl_core.checkpoints.read import detect_layout, load_weights, open_weights
from pirl_core.commands import cli
from pirl_core.errors import UserError
from pirl_core.policy.families.pi0.layout import OPENPI_TIES, openpi_names
from pirl_core.policy.folder import load_policy, save_policy
from tests.worlds import small_policy

OURS, THEIRS = "trunk.", "paligemma_with_expert.trunk."
HEAD = "paligemma_with_expert.lm_head.weight"


class Net(nn.Module):
    """Stands for a policy network: mixed dtypes, a saved and an unsaved buffer, a token embedding."""

    saved: Tensor
    rate: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.ModuleDict({"a": nn.Linear(5, 7), "norm": nn.LayerNorm(7), "embed": nn.Embedding(11, 5)})
        self.trunk["a"].to(torch.bfloat16)
        self.register_buffer("saved", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("rate", torch.arange(4.0), persistent=False)


def net(seed: int) -> Net:
    torch.manual_seed(seed)
    made = Net()
    for value in made.state_dict().values():
        value.copy_(torch.randn(value.shape) * 9)
    return made


def rename(key: str) -> str | None:
    if key == HEAD:
        return None
    return key.replace(THEIRS, OURS)


def strict(key: str) -> str | None:
    if not key.startswith((THEIRS, "saved")):
        raise UserError("strange")
    return rename(key)


def both(key: str) -> str | None:
    return "trunk.embed.weight" if key == HEAD else rename(key)


def back(key: str) -> str | None:
    return key.replace(OURS, THEIRS)


LAYOUT = Layout(
    back, {HEAD: "trunk.embed.weight"}, {"paligemma_with_expert.never.weight": (3, 2)}, {
        "config.json": {"type": "made_up"}, "assets/x/norm_stats.json": {"mean": [0.0]}
    },
)  # fmt: skip


def known(key: str) -> str | None:
    return None if ".never." in key else rename(key)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and x.dtype == y.dtype and torch.equal(x, y) for (a, x), (b, y) in pairs)


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file, hidden ones and those beside the folder included."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def told(call: Any, *arguments: Any) -> str:
    """The message of the UserError; one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


def save_theirs(folder: Path, state: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({str(back(key)): value for key, value in state.items()}, folder / "model.safetensors")


@pytest.mark.parametrize("shard_bytes", [10**9, 200, 1])
def test_export_and_reading_are_inverse_bit_for_bit(shard_bytes: int, tmp_path: Path) -> None:
    one = net(0)
    export(one.state_dict(), LAYOUT, tmp_path / "out", shard_bytes=shard_bytes)
    assert detect_layout(["model." + THEIRS + "state_proj.weight"]) == "lerobot_pi0"
    weights = open_weights(tmp_path / "out")
    files = set(weights.files.values())
    if shard_bytes < 10**9:
        index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
        sizes = {
            path: sum(math.prod(weights.shapes[k]) for k in weights.shapes if weights.files[k] == path)
            for path in files
        }
        assert len(files) > 2 and set(index["weight_map"]) == set(weights.shapes)
        assert all(
            2 * size <= shard_bytes or list(weights.files.values()).count(path) == 1 for path, size in sizes.items()
        )
    for other in (net(1), init_meta()):
        load_weights(other, weights, known)
        assert same(one, other) and torch.equal(other.rate, torch.arange(4.0))
        assert all(value.requires_grad for value in other.parameters())
    for path in files:
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
    assert json.loads((tmp_path / "out/assets/x/norm_stats.json").read_text()) == {"mean": [0.0]}
    tensors = {key: value for path in files for key, value in load_file(path).items()}
    assert (
        torch.equal(tensors[HEAD], one.state_dict()["trunk.embed.weight"])
        and not tensors["paligemma_with_expert.never.weight"].any()
    )


def init_meta() -> Net:
    with init_empty_weights():
        return Net()


def test_dtypes_are_those_of_the_reader_and_of_the_export(tmp_path: Path) -> None:
    one = net(0)
    export(one.state_dict(), LAYOUT, tmp_path, torch.float32)
    written = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.float32, torch.int64}
    other = net(1)
    load_weights(other, open_weights(tmp_path), known)
    assert same(one, other)
    export(one.state_dict(), LAYOUT, tmp_path, torch.bfloat16)
    expected = one.state_dict()["trunk.embed.weight"].to(torch.bfloat16)
    assert torch.equal(load_file(tmp_path / "model.safetensors")[HEAD], expected)


def test_an_embedding_stored_as_the_head_only_is_found(tmp_path: Path) -> None:
    one, other = net(0), net(1)
    state = one.state_dict()
    state[HEAD] = state.pop("trunk.embed.weight")
    save_theirs(tmp_path, state)
    assert "1 missing (trunk.embed.weight)" in told(load_weights, other, open_weights(tmp_path), rename)
    ties = {"trunk.embed.weight": HEAD}
    load_weights(other, open_weights(tmp_path), rename, ties)
    assert same(one, other)
    # Stored twice, by a map that leads both names to the embedding: the head is only the fallback.
    save_theirs(tmp_path, net(2).state_dict() | {HEAD: torch.zeros(11, 5)})
    load_weights(other, open_weights(tmp_path), both, ties)
    assert same(net(2), other)
    assert "1 twice" in told(load_weights, other, open_weights(tmp_path), both)


def test_the_wrong_model_is_told_before_anything_is_written(tmp_path: Path) -> None:
    state = net(0).state_dict()
    state["trunk.a.weight"] = torch.ones(7, 6)
    del state["trunk.norm.bias"]
    save_theirs(tmp_path, state | {f"other.{number}": torch.ones(1) for number in range(5)})
    other = net(1)
    message = told(load_weights, other, open_weights(tmp_path), rename)
    assert message == told(load_weights, other, open_weights(tmp_path), strict)
    assert "1 missing (trunk.norm.bias)" in message
    assert "5 unexpected (other.0, other.1, other.2 and 2 more)" in message
    assert "1 of another shape (paligemma_with_expert.trunk.a.weight (7, 6) instead of (7, 5))" in message
    assert same(other, net(1))
    save_theirs(tmp_path, net(0).state_dict() | {"trunk.double": torch.ones(3)})
    assert "twice" in told(
        load_weights, other, open_weights(tmp_path), lambda key: str(rename(key)).replace("trunk.double", "saved")
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e39])
def test_numbers_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    """The last is finite in the file and overflows the module's dtype."""
    state = {
        key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in net(0).state_dict().items()
    }
    state["trunk.norm.weight"][2] = value
    save_theirs(tmp_path, state)
    assert f"{THEIRS}norm.weight" in told(load_weights, net(1), open_weights(tmp_path), rename)


@pytest.mark.parametrize(
    ("layout", "keys"),
    [
        ("openpi_pi0", ["paligemma_with_expert.x", "state_proj.bias", "action_time_mlp_in.bias"]),
        ("openpi_pi05", ["paligemma_with_expert.paligemma.lm_head.weight", "time_mlp_in.bias"]),
        ("lerobot_pi0", ["model.paligemma_with_expert.x", "model.state_proj.bias", "model.action_time_mlp_in.bias"]),
        ("lerobot_pi05", ["model.paligemma_with_expert.gemma_expert.model.norm.dense.bias", "model.time_mlp_in.bias"]),
        ("lerobot_smolvla", ["model.vlm_with_expert.lm_expert.norm.weight", "model.state_proj.bias"]),
        ("isaac_groot_n15", ["action_head.model.x", "backbone.eagle_model.mlp1.0.weight"]),
        ("lerobot_groot_n15", ["_groot_model.action_head.x", "_groot_model.backbone.eagle_model.mlp1.0.weight"]),
        ("pirl", ["action_head.model.x", "mlp1.weight", "vision_model.x"]),
        ("pirl", ["action_in_proj.weight", "lm_expert.norm.weight", "state_proj.bias", "vlm.x"]),
        ("pirl", ["pi0.action_out_proj.bias", "stem.convolutions.0.bias"]),
    ],
)  # fmt: skip
def test_layouts_are_told_by_their_keys(layout: str, keys: list[str]) -> None:
    assert detect_layout(keys) == layout


def test_other_models_have_no_layout() -> None:
    assert "first keys: bert.0, bert.1, bert.2 and 6 more" in told(detect_layout, [f"bert.{i}" for i in range(9)])
    assert "neither of state_proj" in told(detect_layout, ["paligemma_with_expert.x"])


def sharded(folder: Path) -> Path:
    export(net(0).state_dict(), LAYOUT, folder, shard_bytes=1)
    return folder


def test_damaged_files_are_named(tmp_path: Path) -> None:
    shard = "model-00002-of-00008.safetensors"
    whole = (sharded(tmp_path) / shard).read_bytes()
    header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).encode()
    damage = {
        "cut short": whole[:-1],
        "cut in its header": whole[:20],
        "empty": b"",
        "noise": os.urandom(400),
        "lying header": len(header).to_bytes(8, "little") + header + b"\0" * 4,
    }
    for content in damage.values():
        (tmp_path / shard).write_bytes(content)
        assert f"{shard}: cut short or damaged" in told(open_weights, tmp_path)
    (tmp_path / shard).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "git lfs pull" in told(open_weights, tmp_path)
    save_file({"elsewhere": torch.ones(1)}, tmp_path / shard)
    assert "its keys are not those of" in told(open_weights, tmp_path)
    (tmp_path / shard).write_bytes(whole)
    assert open_weights(tmp_path)


def test_partly_downloaded_folders_are_told(tmp_path: Path) -> None:
    sharded(tmp_path)
    for number in (2, 3):
        (tmp_path / f"model-{number:05d}-of-00008.safetensors").unlink()
    message = told(open_weights, tmp_path)
    assert "partly downloaded" in message and "model-00002-of-00008.safetensors, model-00003" in message
    (tmp_path / "model.safetensors.index.json").unlink()
    assert "partly downloaded" in told(open_weights, tmp_path)
    other = tmp_path / "other"
    (other / ".cache/huggingface/download").mkdir(parents=True)
    assert "neither model.safetensors nor" in told(open_weights, other)
    (other / ".cache/huggingface/download/model.safetensors.0.incomplete").write_bytes(b"1")
    assert "partly downloaded" in told(open_weights, other)


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        '{"weight_map": {}}',
        *(f'{{"weight_map": {{"a": {name}}}}}' for name in ('"../x"', '".."', '""', "[]")),
    ],
)
def test_an_index_may_only_name_files_of_its_folder(index: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert "index.json: no " in told(open_weights, tmp_path)


def test_a_full_disk_leaves_the_earlier_export(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk; at 300 bytes some shards still find room."""
    export(net(0).state_dict(), LAYOUT, tmp_path / "out")
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (100, 300):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            message = told(lambda: export(net(1).state_dict(), LAYOUT, tmp_path / "out", shard_bytes=200))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "cannot be written (File too large), left as it was" in message
        assert contents(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_replaces_nothing_but_an_export(tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    policy.mkdir()
    save_policy(small_policy(), policy)
    before = contents(policy)
    assert "not part of an export" in told(export, net(0).state_dict(), LAYOUT, policy)
    assert contents(policy) == before
    sharded(tmp_path / "out")
    export(net(0).state_dict(), LAYOUT, tmp_path / "out")
    assert not list((tmp_path / "out").glob("model-*"))
    lost = LAYOUT._replace(names=lambda key: None if key == "saved" else back(key))
    assert "1 parameters have no place in this layout, such as saved" in told(export, net(0).state_dict(), lost, policy)


def test_pirl_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "policy", tmp_path / "out"
    folder.mkdir()
    save_policy(small_policy(), folder)
    words = ["export", str(folder), str(out), "--to"]
    assert cli.main([*words, "isaac"]) == 2 and not out.exists()
    assert capsys.readouterr().err.startswith("pirl: export: --to isaac: no map from pi0 to this layout")
    assert cli.main([*words, "openpi"]) == 0
    other = small_policy(seed=1).backbone
    load_weights(other, open_weights(out), openpi_names, OPENPI_TIES)
    assert same(other, load_policy(folder).backbone)


MEMORY = """
import resource, sys, torch
from pathlib import Path
from torch import nn
from pirl_core.checkpoints.read import load_weights, open_weights
class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2**22))
torch.set_num_threads(1)
weights = open_weights(Path(sys.argv[1]))
with torch.device("meta"):
    module = nn.ModuleList(Part() for _ in range(16))
def data():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmData:")[2].split()[0])
limit = data() + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
load_weights(module, weights, lambda key: key)
print(*(int(part.weight[-1]) for part in module))
"""


def test_loading_needs_memory_for_one_tensor_beside_the_module(tmp_path: Path) -> None:
    """A limit on private memory: the module (16 tensors), as much again for the file, whose map counts, and three."""
    save_file({f"{i}.weight": torch.zeros(2**22) + i for i in range(16)}, tmp_path / "model.safetensors")
    command = [sys.executable, "-c", MEMORY, str(tmp_path), str(2**24 * (16 + 16 + 3))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == [str(i) for i in range(16)], done.stderr[-2000:]

"""Pickled checkpoints: never loaded, converted in a process of its own, and nothing in them is run."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from pirl_core.checkpoints.convert import convert, find_state
from pirl_core.checkpoints.read import load_weights, open_weights
from tests.checkpoints.test_checkpoints import HEAD, THEIRS, back, contents, net, rename, same, told


class Bomb:
    """Unpickled by pickle.load, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def run_convert(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pirl_core.checkpoints.convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_pickle_is_never_loaded_but_converted(tmp_path: Path) -> None:
    one = net(0)
    state = {str(back(key)): value for key, value in one.state_dict().items()}
    tied = {**state, HEAD: state[f"{THEIRS}embed.weight"]}
    torch.save({"epoch": 3, "model": tied, "args": {"lr": 1.0}}, tmp_path / "in.pt")
    message = told(open_weights, tmp_path)
    command = re.search(r"`python -m pirl_core.checkpoints.convert (\S+) OUT_FOLDER`", message)
    assert command and Path(command[1]) == tmp_path / "in.pt"
    convert(tmp_path / "in.pt", tmp_path / "out")
    other = net(1)
    load_weights(other, open_weights(tmp_path / "out"), rename)
    assert same(one, other)
    assert "exists already" in told(convert, tmp_path / "in.pt", tmp_path / "out")


def test_a_hostile_pickle_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"weight": torch.ones(2), "bomb": Bomb(marker)}, tmp_path / "torch.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(marker)))
    before = contents(tmp_path)
    done = run_convert(tmp_path / "torch.pt", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout
    assert "refused" in done.stderr and "system" in done.stderr and "weights_only" not in done.stderr
    assert "refused" in told(convert, tmp_path / "plain.pt", tmp_path / "out")
    assert contents(tmp_path) == before and not marker.exists() and not (tmp_path / "out").exists()
    pickle.loads((tmp_path / "plain.pt").read_bytes())  # the bomb is live
    assert marker.exists()


def test_a_small_pickle_cannot_claim_the_whole_memory(tmp_path: Path) -> None:
    """One number that stands for 2 GiB: an expanded tensor has any shape. The limits, not the machine, refuse it."""
    torch.save({"weight": torch.ones(1).expand(2**29)}, tmp_path / "in.pt")
    assert "no room for its tensors" in told(convert, tmp_path / "in.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_entry_with_the_weights_is_found_or_asked_for() -> None:
    state = {"a": torch.ones(1)}
    assert find_state(state | {"step": 3}, None) == find_state({"model": state}, None) == state
    assert find_state({"model": state, "ema": {"b": torch.ones(2)}}, "model") == state
    # Optimizers keep tensors too, by the parameters' numbers.
    optimizer = {"state": {0: {"exp_avg": torch.ones(1)}}}
    for outer, inner in (("model", "state_dict"), ("module", "model_state_dict"), ("actor", "model")):
        nested = {outer: {inner: state, "epoch": 3}, "optimizer": optimizer, "step": 1}
        assert find_state(nested, None) == find_state(nested, f"{outer}.{inner}") == state
    assert "--key: model.ema, model.net" in told(find_state, {"model": {"ema": state, "net": state}}, None)
    assert "give one of a.b" in told(find_state, {"a": {"b": state}}, "a")
    assert "--key: model, ema" in told(find_state, {"model": state, "ema": state}, None)
    assert "no tensors" in told(find_state, [1], None)


def test_wrappers_leave_no_trace_in_the_names() -> None:
    """Of DDP, of torch.compile, of FSDP and activation checkpointing, one around the other."""
    value = torch.ones(1)
    plain = {"layer.0.weight": value, "module.bias": value}
    for wrap in ("module.{}", "_orig_mod.module.{}", "module._orig_mod.{}", "actor.module._fsdp_wrapped_module.{}"):
        assert find_state({wrap.format(name): value for name in plain}, None).keys() == plain.keys()
    inside = {"_fsdp_wrapped_module.layer.0._checkpoint_wrapped_module.weight": value, "module.bias": value}
    assert find_state(inside, None).keys() == plain.keys()
    assert "differ in their wrappers" in told(find_state, {"a": value, "_orig_mod.a": value}, None)

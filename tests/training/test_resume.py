"""A killed stage goes on from its last checkpoint and ends as if nothing had happened."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st

from pirl_core.data.curate import make_dataset
from pirl_core.evaluation.evaluate import Outcome, load_outcomes, save_outcomes
from pirl_core.params.file import check_params, resolve
from pirl_core.params.preset import preset_values
from pirl_core.params.sections import Curate, Env, Sft
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.provenance import packages
from pirl_core.rl.train import chooses, train_rl
from pirl_core.sft.build import build_policy
from pirl_core.sft.train import train_sft
from pirl_core.stages.sources import source_of
from pirl_core.training.resume import Checkpoints
from pirl_core.training.session import Session
from pirl_core.training.track import Tracker
from pirl_core.types import Episode
from tests.params.probes import BASE as VALUES
from tests.params.probes import job
from tests.policy.test_families import make
from tests.rl.test_anchor import anchor_of
from tests.rl.test_rl import rl_params
from tests.sft.test_sft import BASE, ENV, POLICY, learnable
from tests.worlds import INSTRUCTIONS, Bandit, session, small_policy


def note(number: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "number").write_text(str(number))

    return write


def test_two_whole_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "a", 0)
    said: list[str] = []
    assert checkpoints.latest(said.append) is None
    for step in (0, 5, 12):
        checkpoints.save(step, note(step))
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["000000005", "000000012"]
    found = checkpoints.latest(said.append)
    assert found is not None and found[0] == 12 and (found[1] / "number").read_text() == "12" and not said

    # One byte is wrong; the file ends in a terabyte of nothing, which is not read; it is gone; the checksums are.
    for damage in ("write", "longer", "unlink", "checksums"):
        folder = tmp_path / damage
        shutil.copytree(tmp_path / "a", folder)
        newest = folder / "000000012"
        if damage == "write":
            (newest / "number").write_text("13")
        elif damage == "longer":
            os.truncate(newest / "number", 2**40)
        else:
            (newest / ("number" if damage == "unlink" else "checksums.json")).unlink()
        said.clear()
        found = Checkpoints(folder, 0).latest(said.append)
        assert found is not None and found[0] == 5
        assert len(said) == 1 and "000000012 is damaged" in said[0]


def test_a_checkpoint_that_fails_to_be_written_leaves_the_others(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 0)
    checkpoints.save(1, note(1))

    def fail(folder: Path) -> None:
        note(2)(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.save(2, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["000000001"]
    (tmp_path / ".000000003.new.partial").mkdir()  # what a kill while writing leaves
    found = checkpoints.latest(print)
    assert found is not None and found[0] == 1


def test_the_age_of_a_checkpoint_is_bounded(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, 0).due()
    assert not Checkpoints(tmp_path, 60).due()


def test_the_fingerprint_sees_whatever_the_result_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another stage, parameter, input, line of code, and another version of what the benchmark's stages load."""
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text("1")
    env = Env.model_validate(VALUES["Env"])
    base = job("rl", env=env, rl=rl_params())
    source = source_of("rl", [resolve(check_params(preset_values("smoke"), "smoke"), "metaworld")], "")
    loaded = base._replace(source=source)
    marks = [each.fingerprint([tmp_path]) for each in (base, loaded)]
    assert loaded.fingerprint([tmp_path]) == marks[1]
    marks.append(base._replace(name="e-m-1").fingerprint([tmp_path]))
    marks.append(base._replace(run=base.run._replace(rl=rl_params(actor_lr=0.5))).fingerprint([tmp_path]))
    edited = source._replace(code=source.code._replace(files={**source.code.files, "pirl_core/rl/losses.py": "0"}))
    marks.append(base._replace(source=edited).fingerprint([tmp_path]))
    true = metadata.version
    monkeypatch.setattr(packages, "version", lambda name: "0" if name == "mujoco" else true(name))
    marks.append(loaded.fingerprint([tmp_path]))
    (tmp_path / "meta/info.json").write_text("2")
    marks.append(base.fingerprint([tmp_path]))
    assert len(set(marks)) == len(marks)


class Stop(Exception):  # noqa: N818 - stands for a kill
    pass


class Bomb:
    """A tracker that ends the run right before step ``at`` is logged."""

    def __init__(self, tracker: Tracker, at: int) -> None:
        self.tracker = tracker
        self.at = at

    def log(self, step: int, *arguments: Any) -> None:
        if step == self.at:
            raise Stop
        self.tracker.log(step, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tracker, name)


Train = Callable[[Session, bool], FlowPolicy]


def sft(opened: Session, disturbed: bool) -> FlowPolicy:
    policy = build_policy(ENV, POLICY, learnable(), INSTRUCTIONS, 0).policy
    section = Sft.model_validate(BASE | {"steps": 6, "log_every": 2, "ema_decay": 0.5})
    train_sft(policy, learnable(), ENV.cameras, section, 0, opened)
    return policy


def rl(opened: Session, disturbed: bool) -> FlowPolicy:
    policy = small_policy(cameras=0, horizon=2, replan=2)
    chosen = rl_params(
        iterations=5, episodes_per_iteration=32, noise_rule="learned", mdp="one_layer", critic_warmup_iterations=1,
        lr_schedule="cosine", noise_schedule="reinflow", validate_every=1,
    )  # fmt: skip
    # The best policy is an early one, so it has to survive the kill.
    score = {0: 0.1, 1: 0.2, 2: 0.9}
    train_rl(
        policy, Bandit(4, 0.8), ["b"], "none", chosen, 0, opened, lambda i: {chooses("success"): score.get(i, 0.3)},
        lambda: save_policy(policy, opened.policy),
    )  # fmt: skip
    return policy


def anchored(opened: Session, disturbed: bool) -> FlowPolicy:
    policy = small_policy(cameras=0, horizon=2, replan=2)
    chosen = rl_params(iterations=4, episodes_per_iteration=16, sft_coef=0.5, validate_every=1)
    train_rl(
        policy, Bandit(4, 0.8), ["b"], "none", chosen, 0, opened, lambda i: {chooses("success"): 0.5},
        lambda: save_policy(policy, opened.policy), anchor=anchor_of(policy),
    )  # fmt: skip
    return policy


def mixture(opened: Session, disturbed: bool) -> FlowPolicy:
    policy = build_policy(ENV, POLICY, learnable(), INSTRUCTIONS, 0).policy
    section = Sft.model_validate(BASE | {"steps": 4, "log_every": 1, "sim_share": 0.5})
    train_sft(policy, learnable(), ENV.cameras, section, 0, opened, sim=60)
    return policy


def lora(opened: Session, disturbed: bool) -> FlowPolicy:
    policy = small_policy(cameras=0, horizon=2, replan=2)
    chosen = rl_params(iterations=3, episodes_per_iteration=32, lora_rank=2, micro_batch_size=20, validate_every=1)
    train_rl(
        policy,
        Bandit(4, 0.8),
        ["b"],
        "none",
        chosen,
        0,
        opened,
        lambda i: {chooses("success"): 0.5},
        lambda: save_policy(policy, opened.policy),
    )
    return policy


def dropped_sft(opened: Session, disturbed: bool) -> FlowPolicy:
    policy = make("groot", cameras=0)
    section = Sft.model_validate(BASE | {"steps": 4, "log_every": 2})
    train_sft(policy, learnable(cameras=0)._replace(actions=learnable().actions[:, :3]), [], section, 0, opened)
    return policy


def dropped_rl(opened: Session, disturbed: bool) -> FlowPolicy:
    policy = make("groot", cameras=0)
    chosen = rl_params(iterations=3, episodes_per_iteration=16, dropout=True, validate_every=1)
    train_rl(
        policy, Bandit(4, 0.8), ["b"], "none", chosen, 0, opened, lambda i: {chooses("success"): 0.5},
        lambda: save_policy(policy, opened.policy),
    )  # fmt: skip
    return policy


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for part in ("policy", "log")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file() and path.name != "timing.jsonl"
    }


@pytest.mark.parametrize(
    ("train", "stops"),
    [
        (sft, (2, 4, 6)),
        (mixture, (2, 3)),
        (rl, (0, 1, 3, 5)),
        (anchored, (1, 3)),
        (lora, (1, 2)),
        (dropped_sft, (2,)),
        (dropped_rl, (2,)),
    ],
)
def test_interrupted_training_ends_with_the_same_bits(train: Train, stops: tuple[int, ...], tmp_path: Path) -> None:
    """Parameters, best policy and metric log; killed once at each of several steps, then again and again."""
    torch.set_num_threads(1)

    def run(folder: Path, at: int | None) -> FlowPolicy:
        AcceleratorState._reset_state(reset_partial_state=True)
        with session(folder, 6) as opened:
            bomb: Any = opened.tracker if at is None else Bomb(opened.tracker, at)
            torch.randn(1 if at is None else 7)  # the global generator must not matter
            return train(opened._replace(tracker=bomb), at is not None)

    whole = run(tmp_path / "whole", None)
    for name, series in {**{str(at): (at,) for at in stops}, "all": stops}.items():
        for at in series:
            with suppress(Stop):
                run(tmp_path / name, at)
            assert not (tmp_path / name / "policy").exists()
        again = run(tmp_path / name, None)
        for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
            assert torch.equal(one, other)
        assert files(tmp_path / name) == files(tmp_path / "whole")


def test_another_fingerprint_starts_anew(tmp_path: Path) -> None:
    with suppress(Stop), session(tmp_path, 6, mark="one") as opened:
        train: Any = Bomb(opened.tracker, 4)
        sft(opened._replace(tracker=train), True)
    for mark, resumes in (("two", False), ("one", True)):
        with session(tmp_path, 6, mark=mark) as opened:
            assert (opened.found is not None) == resumes


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_outcomes_survive_a_file(lengths: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(0)
    episodes = [Episode("a", index) for index in range(len(lengths))]
    outcomes = [
        Outcome(episode, bool(length % 2), length, float(rng.standard_normal()), rng.standard_normal((length, 4)))
        for episode, length in zip(episodes, lengths, strict=True)
    ]
    folder = tmp_path_factory.mktemp("outcomes")
    save_outcomes(outcomes, folder)
    for one, other in zip(outcomes, load_outcomes(folder, episodes), strict=True):
        assert one[:4] == other[:4] and np.array_equal(one.actions, other.actions)


def test_finished_demonstrations_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of four are there: the dataset is the same, byte for byte, and only the fourth costs anything."""
    monkeypatch.chdir(tmp_path)
    env = Env.model_validate(VALUES["Env"] | {"cameras": [], "object_state": True, "episode_steps": 150})
    curate = Curate.model_validate(VALUES["Curate"] | {"episodes_per_task": 4})
    store = Checkpoints(Path("store"), 0, kept=None)

    def dataset(name: str) -> dict[str, bytes]:
        with Tracker("curate", name, 4, None) as tracker:
            make_dataset(env, curate, Path(name), store, tracker, workers=1)
        paths = sorted(path for path in Path(name).rglob("*") if path.is_file())
        return {path.relative_to(name).as_posix(): path.read_bytes() for path in paths}

    whole = dataset("whole")
    before = {path.name: path.stat().st_ino for path in Path("store").iterdir()}
    assert len(before) == 4
    shutil.rmtree("store/000000002")
    assert dataset("again") == whole
    after = {path.name: path.stat().st_ino for path in Path("store").iterdir()}
    assert [name for name in before if after[name] != before[name]] in ([], ["000000002"])
    assert after.keys() == before.keys()


LIMITED = """
import sys
from pathlib import Path
from pirl_core.policy.folder import load_policy, save_policy
policy = load_policy(Path(sys.argv[1]))
try:
    save_policy(policy, Path(sys.argv[2]))
except OSError as error:
    print("errno", error.errno)
"""


def test_no_room_is_an_error_that_keeps_the_old_file(tmp_path: Path) -> None:
    """The writer of tensors reports a full disk as the system does; a limit on file size stands for the disk."""
    save_policy(small_policy(), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), str(tmp_path)], capture_output=True, text=True, check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert "errno 27" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "model.safetensors").read_bytes() == before
    load_policy(tmp_path)

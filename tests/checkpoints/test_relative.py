"""Which action numbers the files of published weights call relative: every pattern, and every mismatch with ours."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pirl_core.checkpoints.export import export
from pirl_core.checkpoints.layouts import layout_of
from pirl_core.checkpoints.pretrained import pretrained_normalization
from pirl_core.checkpoints.relative import agreement, mismatch, relative_numbers
from pirl_core.checkpoints.statistics import find_statistics
from pirl_core.errors import UserError
from pirl_core.params import sections as params
from pirl_core.report.card import Facts, model_card
from pirl_core.sft import build
from pirl_core.stages import sft
from tests.checkpoints.test_pretrained import DATA, ROUTES, published_folder, random_policy, section, tiny_shape
from tests.checkpoints.test_statistics import groot, openpi
from tests.params.probes import BASE, SEEING, job, write_demonstrations

KIND = "relative_actions_processor"


def steps(folder: Path, before: list[tuple[str, Any]], after: list[tuple[str, Any]]) -> None:
    for name, found in (("preprocessor", before), ("postprocessor", after)):
        entries = [{"registry_name": kind, "config": settings} for kind, settings in found]
        (folder / f"policy_{name}.json").write_text(json.dumps({"name": f"policy_{name}", "steps": entries}))


def write(folder: Path, enabled: bool, names: list[str] | None, excluded: list[str] | None, way: str) -> None:
    if way == "config":
        settings = {"use_relative_actions": enabled, "action_feature_names": names, "relative_exclude_joints": excluded}
        (folder / "config.json").write_text(json.dumps({"type": "pi0", **settings}))
        return
    settings = {"enabled": enabled, "exclude_joints": excluded, "action_names": names}
    normal: tuple[str, Any] = ("normalizer_processor", {"norm_map": {}})
    after = ("absolute_actions_processor", {"enabled": enabled})
    steps(folder, [normal, (way, settings)], [("unnormalizer_processor", {}), after])


def lerobots(enabled: bool, names: list[str] | None, excluded: list[str] | None, numbers: int) -> list[bool]:
    """LeRobot's rule, number by number."""
    mask = []
    for number in range(numbers):
        absolute = not enabled
        if excluded and names is not None and number < len(names):
            absolute |= any(word and word.lower() in names[number].lower() for word in excluded)
        mask.append(not absolute)
    return mask


WORDS = st.lists(st.text("abAB", max_size=3), max_size=6)


@given(
    st.booleans(), st.none() | WORDS, st.none() | WORDS, st.integers(1, 7), st.integers(0, 7),
    st.sampled_from([KIND, "delta_actions_processor", "config"]),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_every_pattern_is_read_and_every_mismatch_told(
    tmp_path_factory: pytest.TempPathFactory,
    enabled: bool, names: list[str] | None, excluded: list[str] | None, numbers: int, delta: int, way: str,
) -> None:  # fmt: skip
    folder, delta = tmp_path_factory.mktemp("p"), min(delta, numbers)
    write(folder, enabled, names, excluded, way)
    said = relative_numbers(folder, numbers)
    expected = lerobots(enabled, names, excluded, numbers)
    assert said is not None and said.relative == expected and (folder / said.file).is_file()
    fits = [n for n in range(numbers + 1) if expected == [True] * n + [False] * (numbers - n)]
    told = mismatch(said, delta)
    assert (told is None) == (delta in fits)
    if told is not None:
        assert "\n" not in told and said.file in told and f"policy.delta_actions = {delta}" in told
        assert [n for n in range(numbers + 1) if f"set policy.delta_actions: {n}" in told] == fits
        assert mismatch(said, fits[0]) is None if fits else "do not fit" in told
    else:
        assert said.file in agreement(said, delta)


@pytest.mark.parametrize("family", ["pi0", "pi05", "smolvla"])
@pytest.mark.parametrize("made", [0, 2, 3])
@pytest.mark.parametrize("wished", [0, 2, 3])
def test_statistics_are_not_read_for_other_numbers_than_they_were_made_for(
    family: Any, made: int, wished: int, tmp_path: Path
) -> None:
    """A policy of three relative numbers, read as absolute, acted -0.006 instead of 0.694."""
    policy = random_policy(family)
    policy.normalization = policy.normalization._replace(delta=made)
    export(policy.backbone.state_dict(), layout_of(policy, "lerobot"), tmp_path / "p")
    if made == wished:
        normal = pretrained_normalization(find_statistics(tmp_path / "p"), "mean_std", wished, 4, 4)
        assert normal.delta == made
        return
    with pytest.raises(UserError, match=f"policy_preprocessor.json .* set policy.delta_actions: {made}$"):
        pretrained_normalization(find_statistics(tmp_path / "p"), "mean_std", wished, 4, 4)


@pytest.mark.parametrize(("family", "target"), [*ROUTES, ("groot", "isaac")])
@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_what_we_export_says_it_in_every_layout(family: Any, target: str, stem: Any, tmp_path: Path) -> None:
    policy = random_policy(family)
    policy.backbone.shape = policy.backbone.shape._replace(stem=stem)
    for delta in (0, 3):
        policy.normalization = policy.normalization._replace(delta=delta)
        for name, content in layout_of(policy, target).documents.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(json.dumps(content))
        said = relative_numbers(tmp_path, 4)
        assert said is not None and said.relative == [number < delta for number in range(4)]


def test_openpis_and_groots_files(tmp_path: Path) -> None:
    """openpi's say nothing, and that is told; Isaac-GR00T N1.5 adds no state to what its network says."""
    for name in ("openpi", "groot"):
        (tmp_path / name).mkdir()
    openpi(tmp_path / "openpi")
    assert relative_numbers(tmp_path / "openpi", 7) is None and mismatch(None, 6) is None
    assert "no file" in agreement(None, 6) and "policy.delta_actions = 6 is taken on trust" in agreement(None, 6)
    groot(tmp_path / "groot")
    assert "set policy.delta_actions: 0" in str(mismatch(relative_numbers(tmp_path / "groot", 7), 6))


ON = {"enabled": True, "exclude_joints": [], "action_names": None}
STRANGE: dict[str, tuple[list[tuple[str, Any]], list[tuple[str, Any]], str]] = {
    "never absolute again": ([(KIND, ON)], [], "does not make them absolute"),
    "absolute without relative": ([], [("absolute_actions_processor", {"enabled": True})], "relative actions off"),
    "another kind": ([(f"ee_so3_{KIND}", {"enabled": True})], [], f"ee_so3_{KIND}; only"),
    "twice": ([(KIND, ON), (KIND, ON)], [], "once"),
    "another setting": ([(KIND, ON | {"mode": "ee"})], [], "settings that are not known (mode)"),
    "no names": ([(KIND, ON | {"action_names": "abc"})], [("absolute_actions_processor", {"enabled": True})], "'abc'"),
    "no settings": ([(KIND, "on")], [], "no list of LeRobot's steps"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_cannot_be_read_is_one_line(name: str, tmp_path: Path) -> None:
    before, after, words = STRANGE[name]
    steps(tmp_path, before, after)
    with pytest.raises(UserError) as error:
        relative_numbers(tmp_path, 4)
    assert words in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "policy_preprocessor.json").write_text("{")
    with pytest.raises(UserError, match=r"policy_preprocessor\.json: no valid JSON"):
        relative_numbers(tmp_path, 4)


def test_the_stage_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without training a mismatch ends the stage; SFT may retrain the numbers, and then output, record and model card
    say so."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "published_sizes", lambda *_: DATA._replace(state_dim=40, cameras=0))
    monkeypatch.setattr(build, "new_shape", tiny_shape)
    torch.set_num_threads(1)
    published_folder("pi0", "lerobot", tmp_path / "published", state_numbers=39, state_dim=40)
    write_demonstrations()
    env = SEEING.model_copy(update={"cameras": [], "object_state": True})
    wish = section("pi0", tmp_path / "published", normalization="mean_std", delta_actions=2)
    with pytest.raises(UserError, match=r"none of 4 action numbers .* set policy.delta_actions: 0$"):
        sft.run(job("sft", env=env, policy=wish, sft=params.Sft.model_validate(BASE["Sft"] | {"steps": 0})))
    assert not Path("outputs/sft").exists()
    sft.run(job("sft", env=env, policy=wish, sft=params.Sft.model_validate(BASE["Sft"] | {"steps": 1})))
    (note,) = json.loads(Path("outputs/sft/e-0/pretrained.json").read_text())["notes"]
    assert "set policy.delta_actions: 0, or let SFT retrain them" in note and str(tmp_path) not in note
    assert f"[sft e-0] note: {note}\n" in capsys.readouterr().out
    base = {"family": "pi0", "folder": None, "repo": "a/b", "commit": "f", "notes": [note]}
    row = {"experiment": "e", "method": "m", "split": "id", "rate": 0.5, "ci_low": 0.4, "ci_high": 0.6, "successes": 1,
           "n": 2, "seeds": [0], "benchmark": "metaworld", "model": "nano"}  # fmt: skip
    assert note in model_card(Facts("a/b", "e", "m", 0, {}, "rev", "data", base), {"rows": [row]}, {})

"""Statistics beside published weights, in each format; and published weights that go to RL without SFT."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from pirl_core.checkpoints.pretrained import pretrained_normalization
from pirl_core.checkpoints.statistics import MODES, find_statistics
from pirl_core.envs.vector import slots as vector
from pirl_core.errors import UserError
from pirl_core.params import sections as params
from pirl_core.params.sizes import Mode
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.policy.normalize import USED, Affine
from pirl_core.sft import build
from pirl_core.stages import rl, sft
from tests.checkpoints.test_pretrained import DATA, published_folder, section, tiny_shape
from tests.params.probes import BASE, SEEING, job, write_demonstrations
from tests.params.walk import Walk
from tests.sft.test_sft import learnable
from tests.worlds import INSTRUCTIONS, small_policy

# Of three state and two action numbers; the last action number never varied.
STATE = {"mean": [0.5, -1.0, 2.0], "std": [0.25, 2.0, 1.0], "min": [0.0, -4.0, 0.0], "max": [1.0, 4.0, 6.0],
         "q01": [0.1, -3.0, 0.5], "q99": [0.9, 3.0, 5.5]}  # fmt: skip
ACTION = {"mean": [0.25, 1.0], "std": [0.5, 0.0], "min": [-1.0, 1.0], "max": [1.0, 1.0], "q01": [-0.5, 1.0],
          "q99": [0.75, 1.0]}  # fmt: skip


def openpi(folder: Path, state: Any = STATE, action: Any = ACTION, name: str = "physical-intelligence/libero") -> Path:
    path = folder / name / "norm_stats.json"
    path.parent.mkdir(parents=True)
    kept = [{key: values for key, values in s.items() if key not in ("min", "max")} for s in (state, action)]
    path.write_text(json.dumps({"norm_stats": {"state": kept[0], "actions": kept[1]}}))
    return path


def lerobot(folder: Path, state: Any = STATE, action: Any = ACTION, mode: str = "QUANTILES") -> Path:
    name = "policy_preprocessor_step_2_normalizer_processor.safetensors"
    steps = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "to_batch_processor", "config": {}},
        {
            "registry_name": "normalizer_processor",
            "config": {"eps": 1e-8, "norm_map": {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}},
            "state_file": name,
        },
    ]
    (folder / "policy_preprocessor.json").write_text(json.dumps({"name": "policy_preprocessor", "steps": steps}))
    tensors = {"observation.images.image.mean": np.zeros((3, 1, 1), np.float32), "action.count": np.array([99])}
    for feature, stats in (("observation.state", state), ("action", action)):
        with np.errstate(over="ignore"):
            tensors |= {f"{feature}.{key}": np.array(values, np.float32) for key, values in stats.items()}
    save_file(tensors, folder / name)
    return folder / "policy_preprocessor.json"


def groot(
    folder: Path, state: Any = STATE, action: Any = ACTION, embodiments: tuple[str, ...] = ("new_embodiment",)
) -> Path:
    """The state in two parts."""
    parts = {"arm": {k: v[:2] for k, v in state.items()}, "gripper": {k: v[2:] for k, v in state.items()}}
    content = {"statistics": {"state": parts, "action": {"arm": action}}, "modalities": {}}
    (folder / "experiment_cfg").mkdir()
    path = folder / "experiment_cfg/metadata.json"
    path.write_text(json.dumps(dict.fromkeys(embodiments, content)))
    return path


def mapped(affine: Affine, x: list[float]) -> np.ndarray:
    return (np.array(x) - affine.center) / affine.scale


def test_openpis_statistics_map_as_openpi_does(tmp_path: Path) -> None:
    """By its formulas: (x − mean)/(std + 1e-6) and 2 (x − q01)/(q99 − q01 + 1e-6) − 1."""
    openpi(tmp_path)
    found = find_statistics(tmp_path)
    x, mean, std = np.array([0.3, 1.0, 4.0]), np.array(STATE["mean"]), np.array(STATE["std"])
    normal = pretrained_normalization(found, "mean_std", 1, 3, 2)
    assert normal.delta == 1
    np.testing.assert_allclose(mapped(normal.state, x.tolist()), (x - mean) / (std + 1e-6), rtol=1e-12)
    low, high = np.array(STATE["q01"]), np.array(STATE["q99"])
    normal = pretrained_normalization(found, "quantile", 0, 3, 2)
    expected = 2 * (x - low) / (high - low + 1e-6) - 1
    np.testing.assert_allclose(mapped(normal.state, x.tolist()), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "mode"), [("MEAN_STD", "mean_std"), ("QUANTILES", "quantile"), ("MIN_MAX", "min_max")]
)
def test_lerobots_statistics(name: str, mode: Mode, tmp_path: Path) -> None:
    lerobot(tmp_path, mode=name)
    normal = pretrained_normalization(find_statistics(tmp_path), mode, 0, 3, 2)
    first, last = {"mean_std": ("mean", "std"), "quantile": ("q01", "q99"), "min_max": ("min", "max")}[mode]
    ends = [mapped(normal.state, STATE[first]), mapped(normal.state, STATE[last])]
    if mode == "mean_std":
        ends[1] = mapped(normal.state, (np.array(STATE["mean"]) + STATE["std"]).tolist())
    np.testing.assert_allclose(ends, [[0 if mode == "mean_std" else -1] * 3, [1] * 3], atol=1e-6)


def test_groots_parts_follow_each_other_and_what_never_varied_is_zero(tmp_path: Path) -> None:
    groot(tmp_path)
    normal = pretrained_normalization(find_statistics(tmp_path), "min_max", 0, 3, 2)
    assert mapped(normal.state, STATE["min"]).tolist() == [-1] * 3
    assert mapped(normal.state, STATE["max"]).tolist() == [1] * 3
    assert mapped(normal.action, [0.5, 1.0]).tolist() == [0.5, 0.0]


def test_padding_with_zeros_is_left_out(tmp_path: Path) -> None:
    """openpi's older statistics have 32 numbers of each."""
    openpi(tmp_path, {k: v + [0.0] * 29 for k, v in STATE.items()}, {k: v + [0.0] * 30 for k, v in ACTION.items()})
    normal = pretrained_normalization(find_statistics(tmp_path), "quantile", 0, 3, 2)
    assert len(normal.state.center) == len(normal.state.scale) == 3 and len(normal.action.center) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_lerobots_statistics_in_any_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    lerobot(tmp_path)
    path = next(tmp_path.glob("*.safetensors"))
    save_torch({name: value.to(dtype) for name, value in load_torch(path).items()}, path)
    normal = pretrained_normalization(find_statistics(tmp_path), "quantile", 0, 3, 2)
    tolerance = 2 * torch.finfo(dtype).eps + 1e-6
    np.testing.assert_allclose(mapped(normal.state, STATE["q01"]), [-1] * 3, atol=20 * tolerance)
    np.testing.assert_allclose(mapped(normal.state, STATE["q99"]), [1] * 3, atol=20 * tolerance)


WRITERS: dict[str, Callable[..., Path]] = {"openpi": openpi, "lerobot": lerobot, "groot": groot}
NOT_NUMBERS = [np.nan, np.inf, -np.inf, 1e39, -1e300]


@given(
    st.sampled_from(sorted(WRITERS)),
    st.sampled_from(list(USED)),
    st.sampled_from(["state", "action"]),
    st.sampled_from(["value", "order", "shorter", "missing"]),
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from(NOT_NUMBERS),
)
@settings(max_examples=250, deadline=None)
def test_a_statistic_that_is_no_number_is_refused_by_its_name(
    tmp_path_factory: pytest.TempPathFactory, kind: str, mode: Mode, part: str, damage: str, upper: bool, index: int,
    value: float,
) -> None:  # fmt: skip
    """Not finite, in fp32 either, as LeRobot's are until they are filled; of the wrong sign, order, length; missing."""
    if kind == "openpi" and mode == "min_max":
        mode = "quantile"
    stats = {"state": {k: [*v] for k, v in STATE.items()}, "action": {k: [*v] for k, v in ACTION.items()}}
    found, name = stats[part], USED[mode][upper]
    index = min(index, len(found[name]) - 1)
    place = f"{name}[{index}]"
    if damage == "value":
        found[name][index] = value
    elif damage == "order":
        name = USED[mode][0] if mode != "mean_std" else "std"
        place = f"{name}[{index}]"
        found[name][index] = -0.5 if mode == "mean_std" else found[USED[mode][1]][index] + 0.5
    elif damage == "shorter":
        found[name].pop()
        place = "different lengths" if kind == "groot" else f"{USED[mode][0]} has"
    else:
        del found[name]
        place = f"'{name}'"
    folder = tmp_path_factory.mktemp("s")
    path = WRITERS[kind](folder, stats["state"], stats["action"])
    if kind == "lerobot":
        modes = {ours: theirs for theirs, ours in MODES.items()}
        path.write_text(path.read_text().replace("QUANTILES", modes[mode]))
        path = next(folder.glob("*.safetensors"))
    with pytest.raises(UserError) as error:
        pretrained_normalization(find_statistics(folder), mode, 0, 3, 2)
    told = str(error.value)
    assert "\n" not in told and str(path) in told and place in told
    assert kind == "groot" or damage == "missing" or part in told


@given(
    st.sampled_from(["state", "action"]),
    st.sampled_from(["center", "scale"]),
    st.sampled_from([*NOT_NUMBERS, 0.0, 1e-60]),
)
@settings(max_examples=40, deadline=None)
def test_a_policy_folder_never_holds_such_numbers(
    tmp_path_factory: pytest.TempPathFactory, part: str, which: str, value: float
) -> None:
    """None is written, and none is read; a centre may be 0."""
    policy, folder = small_policy(), tmp_path_factory.mktemp("f")
    save_policy(policy, folder)
    path = folder / "normalization.json"
    numbers = json.loads(path.read_text())
    numbers[part][which][1] = value
    path.write_text(json.dumps(numbers))
    affine = getattr(policy.normalization, part)
    damaged = affine._replace(**{which: numbers[part][which]})
    policy.normalization = policy.normalization._replace(**{part: damaged})
    fresh = tmp_path_factory.mktemp("g")
    if which == "center" and abs(value) < 1:
        load_policy(folder)
        save_policy(policy, fresh)
        return
    with pytest.raises(UserError, match=rf"normalization\.json: ({part}\.{which}\.1 = |no valid JSON)"):
        load_policy(folder)
    with pytest.raises(UserError, match=rf"normalization\.json: {part}\.{which}\.1 = "):
        save_policy(policy, fresh)
    assert not list(fresh.iterdir())


def test_what_is_missing_or_does_not_fit_is_one_line(tmp_path: Path) -> None:
    def told(folder: Path, mode: Mode = "quantile", state: int = 3, action: int = 2) -> str:
        with pytest.raises(UserError) as error:
            pretrained_normalization(find_statistics(folder), mode, 0, state, action)
        assert "\n" not in str(error.value) and str(folder) in str(error.value)
        return str(error.value)

    folders = {name: tmp_path / name for name in ("none", "two", "openpi", "lerobot", "groot", "broken", "other")}
    for folder in folders.values():
        folder.mkdir()
    assert "no statistics" in told(folders["none"]) and "normalization_from: data" in told(folders["none"])
    for name in ("a", "b"):
        openpi(folders["two"], name=name)
    assert "a/norm_stats.json, b/norm_stats.json" in told(folders["two"])
    path = openpi(folders["openpi"])
    assert "has no 'min' of the state" in told(folders["openpi"], "min_max")
    assert "of 3 state numbers, the data have 4" in told(folders["openpi"], state=4)
    assert "of 2 action numbers, the data have 1" in told(folders["openpi"], action=1)
    path.write_text('{"norm_stats": {"state": {}}}')
    assert "'actions' is missing" in told(folders["openpi"])
    path.write_text(path.read_text()[:-1])
    assert "no valid JSON" in told(folders["openpi"])
    lerobot(folders["lerobot"])
    assert "has quantile for the state; they must agree" in told(folders["lerobot"], "mean_std")
    next(folders["lerobot"].glob("*.safetensors")).unlink()
    assert "no such file" in told(folders["lerobot"])
    groot(folders["groot"], embodiments=("gr1", "new_embodiment"))
    assert "gr1, new_embodiment" in told(folders["groot"], "min_max")


def test_without_own_sft_the_published_policy_goes_to_rl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages sft in no steps, then rl: weights and statistics are the published ones, and RL moves the expert alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "published_sizes", lambda *_: DATA._replace(state_dim=40, cameras=0))
    monkeypatch.setattr(build, "new_shape", tiny_shape)
    monkeypatch.setattr(vector, "VectorEnv", Walk)
    torch.set_num_threads(1)
    there = published_folder("pi0", "openpi", tmp_path / "published", state_numbers=39, state_dim=40)
    env = SEEING.model_copy(update={"cameras": [], "object_state": True, "episode_steps": 150})
    write_demonstrations()
    wish = section("pi0", tmp_path / "published", normalization="mean_std", normalization_from="pretrained", replan=2)
    none = params.Sft.model_validate(BASE["Sft"] | {"steps": 0})
    sft.run(job("sft", env=env, policy=wish, sft=none))
    start = load_policy(Path("outputs/policy/e-sft-0"))
    for name, value in there.backbone.state_dict().items():
        assert torch.equal(value, start.backbone.state_dict()[name]), name
    np.testing.assert_allclose(start.normalization.state.center, there.normalization.state.center, atol=1e-9)
    np.testing.assert_allclose(start.normalization.action.scale, there.normalization.action.scale, atol=1e-9)
    (line,) = Path("outputs/sft/e-0/metrics.jsonl").read_text().splitlines()
    assert '"step": 0, "data/episodes"' in line and "losses" not in line
    assert json.loads(Path("outputs/sft/e-0/pretrained.json").read_text())["family"] == "pi0"
    rl.run(job("rl", env=env, rl=params.Rl.model_validate(BASE["Rl"] | {"keep": "last"})))
    after = load_policy(Path("outputs/policy/e-m-0")).backbone.state_dict()
    moved = {name for name, value in start.backbone.state_dict().items() if not torch.equal(value, after[name])}
    assert moved and not any(".vlm." in name for name in moved)


def test_no_steps_from_scratch_are_refused(tmp_path: Path) -> None:
    scratch = params.Policy.model_validate(BASE["Policy"])
    none = params.Sft.model_validate(BASE["Sft"] | {"steps": 0})
    with pytest.raises(UserError, match="policy would be random"):
        sft.run(job("sft", env=SEEING, policy=scratch, sft=none))
    with pytest.raises(ValueError, match="needs pretrained weights"):
        params.Policy.model_validate(BASE["Policy"] | {"normalization_from": "pretrained"})


@pytest.mark.parametrize("target", ["openpi", "lerobot"])
def test_the_policy_is_built_with_the_statistics_that_were_asked_for(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that ``pirl export`` writes come back as they were."""
    monkeypatch.setattr(build, "published_sizes", lambda *_: DATA)
    monkeypatch.setattr(build, "new_shape", tiny_shape)
    there = published_folder("pi05", target, tmp_path / "p")
    built = []
    for source in ("data", "pretrained"):
        wish = section("pi05", tmp_path / "p", normalization="mean_std", normalization_from=source)
        built.append(build.build_policy(SEEING, wish, learnable(), INSTRUCTIONS, 0))
    data, published = (one.policy.normalization.state for one in built)
    np.testing.assert_allclose(published, there.normalization.state, rtol=1e-6)
    assert not np.allclose(data.center, published.center)

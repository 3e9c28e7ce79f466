"""The statistics of states and actions that lie beside published weights, as openpi, LeRobot and GR00T N1.5 write them.

openpi (and RLinf): one norm_stats.json in a folder of the asset's name. LeRobot: policy_preprocessor.json names a
safetensors file with tensors such as observation.state.mean, and says how each is used. GR00T:
experiment_cfg/metadata.json, statistics by embodiment and by part of the robot, which follow each other.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.numpy import load_file

from pirl_core.errors import UserError

OPENPI, LEROBOT, GROOT = "norm_stats.json", "policy_preprocessor.json", "experiment_cfg/metadata.json"
# What LeRobot calls the modes of params.yaml.
MODES = {"MEAN_STD": "mean_std", "QUANTILES": "quantile", "MIN_MAX": "min_max"}

Stats = dict[str, list[float]]


class Published(NamedTuple):
    """state, action: numbers by the name of a statistic (mean, std, min, max, q01, q99). used: mode of each that the
    file itself names. epsilon: what its writers add to a spread."""

    path: Path
    state: Stats
    action: Stats
    used: dict[str, str]
    epsilon: float


def find_statistics(folder: Path) -> Published:
    """Those of the checkpoint in ``folder``. Raises UserError where there are none, or more than one set of them, and
    for a file that is not in its format."""
    if (folder / LEROBOT).is_file():
        return _checked(folder / LEROBOT, _lerobot)
    if (folder / GROOT).is_file():
        return _checked(folder / GROOT, _groot)
    found = sorted(folder.rglob(OPENPI))
    if len(found) == 1:
        return _checked(found[0], _openpi)
    told = ", ".join(path.relative_to(folder).as_posix() for path in found)
    raise UserError(
        f"{folder}: holds {f'several statistics ({told}); keep one' if found else 'no statistics'} "
        f"({LEROBOT}, {GROOT} or */{OPENPI} are read); or set policy.normalization_from: data"
    )


def _checked(path: Path, read: Callable[[Path], Published]) -> Published:
    try:
        found = read(path)
        for stats in (found.state, found.action):
            if not all(isinstance(x, int | float) for values in stats.values() for x in values):
                raise ValueError("a statistic is no list of numbers")
        return found
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error) or "a part is missing"
        raise UserError(f"{path}: no statistics in the known format ({what}); copy or download them again") from None


def _openpi(path: Path) -> Published:
    content = json.loads(path.read_text(encoding="utf-8"))["norm_stats"]
    return Published(path, _numbers(content["state"]), _numbers(content["actions"]), {}, 1e-6)


def _lerobot(path: Path) -> Published:
    steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
    step = next(step for step in steps if step.get("registry_name") == "normalizer_processor")
    tensors = load_file(path.parent / Path(step["state_file"]).name)
    by_feature: dict[str, Stats] = {"observation.state": {}, "action": {}}
    for key, value in tensors.items():
        feature, _, name = key.rpartition(".")
        if feature in by_feature:
            by_feature[feature][name] = value.reshape(-1).tolist()
    modes = step["config"]["norm_map"]
    used = {
        ours: MODES.get(modes[theirs], modes[theirs]) for ours, theirs in (("state", "STATE"), ("action", "ACTION"))
    }
    return Published(path, by_feature["observation.state"], by_feature["action"], used, 1e-8)


def _groot(path: Path) -> Published:
    embodiments = json.loads(path.read_text(encoding="utf-8"))
    if len(embodiments) != 1:
        raise UserError(f"{path}: has the embodiments {', '.join(embodiments)}; keep the one that is meant in the file")
    kinds = next(iter(embodiments.values()))["statistics"]
    return Published(path, _joined(kinds["state"]), _joined(kinds["action"]), {}, 0.0)


def _joined(parts: dict[str, Any]) -> Stats:
    """Parts of the robot behind each other, in the file's order."""
    whole: Stats = {}
    for part in parts.values():
        for name, values in _numbers(part).items():
            whole.setdefault(name, []).extend(values)
    return whole


def _numbers(entry: dict[str, Any]) -> Stats:
    return {name: list(values) for name, values in entry.items() if values is not None}

"""The statistics of states and actions that lie beside published weights, as openpi, LeRobot and GR00T N1.5 write them.

openpi (and RLinf): one norm_stats.json in a folder of the asset's name. LeRobot: policy_preprocessor.json names a
safetensors file with tensors such as observation.state.mean, and says how each is used. GR00T:
experiment_cfg/metadata.json, statistics by embodiment and by part of the robot, which follow each other.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pirl_core.checkpoints.relative import GROOT, LEROBOT
from pirl_core.errors import UserError
from pirl_core.readers.paths import bare
from pirl_core.readers.tensors import read_tensors
from pirl_core.readers.text import read_json

AGAIN = "copy or download them again"
OPENPI = "norm_stats.json"
# What LeRobot calls the modes of params.yaml.
MODES = {"MEAN_STD": "mean_std", "QUANTILES": "quantile", "MIN_MAX": "min_max"}
# Of the network's numbers, which are fp32.
LARGEST = torch.finfo(torch.float32).max

Stats = dict[str, list[float]]


class Published(NamedTuple):
    """folder: of the checkpoint. path: the file that holds the numbers. state, action: those by the name of a statistic
    (mean, std, min, max, q01, q99). used: mode of each that the files themselves name. epsilon: what their writers add
    to a spread."""

    folder: Path
    path: Path
    state: Stats
    action: Stats
    used: dict[str, str]
    epsilon: float


def find_statistics(folder: Path) -> Published:
    """Those of the checkpoint in ``folder``. Raises UserError where there are none, or more than one set of them, and
    for a file that is not in its format."""
    if (folder / LEROBOT).is_file():
        return _checked(folder, folder / LEROBOT, _lerobot)
    if (folder / GROOT).is_file():
        return _checked(folder, folder / GROOT, _groot)
    found = sorted(folder.rglob(OPENPI))
    if len(found) == 1:
        return _checked(folder, found[0], _openpi)
    told = ", ".join(path.relative_to(folder).as_posix() for path in found)
    raise UserError(
        f"{folder}: holds {f'several statistics ({told}); keep one' if found else 'no statistics'} "
        f"({LEROBOT}, {GROOT} or */{OPENPI} are read); or set policy.normalization_from: data"
    )


def first_fault(stats: Stats, lower: str, upper: str) -> str | None:
    """What of the statistics ``lower`` and ``upper`` no normalisation can use, in words; None where they are sound.

    LeRobot's are infinite until they are filled. Raises KeyError where one is missing.
    """
    first, last = stats[lower], stats[upper]
    if len(first) != len(last):
        return f"{lower} has {len(first)} numbers and {upper} {len(last)}"
    for name in (lower, upper):
        for index, value in enumerate(stats[name]):
            if not abs(value) <= LARGEST:
                return f"{name}[{index}] is {value}, which is not finite"
    for index, (low, high) in enumerate(zip(first, last, strict=True)):
        if upper == "std" and high < 0:
            return f"std[{index}] is {high}, which is negative"
        if upper != "std" and low > high:
            return f"{lower}[{index}] is {low}, above {upper}[{index}], which is {high}"
    return None


def _checked(folder: Path, path: Path, read: Callable[[Path, Path], Published]) -> Published:
    try:
        return read(folder, path)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, OverflowError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error) or "a part is missing"
        raise UserError(f"{path}: no statistics in the known format ({what}); {AGAIN}") from None


def _openpi(folder: Path, path: Path) -> Published:
    content = read_json(path, AGAIN, bounded=False)["norm_stats"]
    return Published(folder, path, _numbers(content["state"]), _numbers(content["actions"]), {}, 1e-6)


def _lerobot(folder: Path, path: Path) -> Published:
    steps = read_json(path, AGAIN)["steps"]
    step = next(step for step in steps if step.get("registry_name") == "normalizer_processor")
    numbers = folder / bare(step["state_file"])
    by_feature: dict[str, Stats] = {"observation.state": {}, "action": {}}
    for key, value in read_tensors(numbers, AGAIN).items():
        feature, _, name = key.rpartition(".")
        if feature in by_feature:
            by_feature[feature][name] = value.double().reshape(-1).tolist()
    modes = step["config"]["norm_map"]
    used = {
        ours: MODES.get(modes[theirs], modes[theirs]) for ours, theirs in (("state", "STATE"), ("action", "ACTION"))
    }
    return Published(folder, numbers, by_feature["observation.state"], by_feature["action"], used, 1e-8)


def _groot(folder: Path, path: Path) -> Published:
    embodiments = read_json(path, AGAIN, bounded=False)
    if len(embodiments) != 1:
        raise UserError(f"{path}: has the embodiments {', '.join(embodiments)}; keep the one that is meant in the file")
    kinds = next(iter(embodiments.values()))["statistics"]
    return Published(folder, path, _joined(kinds["state"]), _joined(kinds["action"]), {}, 0.0)


def _joined(parts: dict[str, Any]) -> Stats:
    """Parts of the robot behind each other, in the file's order; of the statistics that each of them has."""
    whole = {name: _numbers(part) for name, part in parts.items()}
    for name, stats in whole.items():
        if len({len(values) for values in stats.values()}) > 1:
            raise ValueError(f"the statistics of {name} are of different lengths")
    names = set.intersection(*(set(stats) for stats in whole.values()))
    return {name: [x for stats in whole.values() for x in stats[name]] for name in sorted(names)}


def _numbers(entry: dict[str, Any]) -> Stats:
    """Raises ValueError for what is no list of numbers, OverflowError for whole numbers beyond a double."""
    for name, values in entry.items():
        if values is not None and not all(type(x) in (int, float) for x in values):
            raise ValueError(f"{name} is no list of numbers")
    return {name: [float(x) for x in values] for name, values in entry.items() if values is not None}

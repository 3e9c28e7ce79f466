"""Which action numbers published weights give relative to the state, as far as the files beside them say.

LeRobot (0.6): step ``relative_actions_processor`` of policy_preprocessor.json subtracts the state before training, step
``absolute_actions_processor`` of policy_postprocessor.json adds it before an action acts; config.json has the same
settings. Isaac-GR00T N1.5 acts with its numbers as they are. ``pirl export`` writes ``pirl_delta_actions`` into
config.json. openpi keeps it in its code: none of its files says it.
"""

from pathlib import Path
from typing import Any, NamedTuple

from pirl_core.errors import UserError
from pirl_core.readers.text import read_json

AGAIN = "copy or download it again"
LEROBOT, LEROBOT_POST = "policy_preprocessor.json", "policy_postprocessor.json"
GROOT = "experiment_cfg/metadata.json"
CONFIG, OURS = "config.json", "pirl_delta_actions"
# The second is the name that LeRobot had for it first.
RELATIVE, ABSOLUTE = ("relative_actions_processor", "delta_actions_processor"), "absolute_actions_processor"
SETTINGS = {"enabled", "exclude_joints", "action_names"}


class Said(NamedTuple):
    """file: within the checkpoint's folder. relative: of each action number."""

    file: str
    relative: list[bool]


def relative_numbers(folder: Path, numbers: int) -> Said | None:
    """What the checkpoint in ``folder`` says of its ``numbers`` action numbers; None where no file says anything.

    Raises UserError for a file that is damaged, that contradicts itself, or that has a transformation of another kind.
    """
    config = read_json(folder / CONFIG, AGAIN) if (folder / CONFIG).is_file() else {}
    if OURS in config:
        count = config[OURS]
        if type(count) is not int or not 0 <= count <= numbers:
            raise UserError(f"{folder / CONFIG}: {OURS} = {count!r:.60}, of {numbers} action numbers; export it again")
        return Said(CONFIG, [number < count for number in range(numbers)])
    if (folder / LEROBOT).is_file():
        return Said(LEROBOT, _of_steps(folder, numbers))
    if (folder / GROOT).is_file():
        return Said(GROOT, [False] * numbers)
    if "use_relative_actions" in config:
        names, excluded = config.get("action_feature_names"), config.get("relative_exclude_joints")
        mask = _mask(folder / CONFIG, names, excluded, numbers)
        return Said(CONFIG, [bool(config["use_relative_actions"]) and relative for relative in mask])
    return None


def mismatch(said: Said | None, delta: int) -> str | None:
    """In words, with the remedy, how ``policy.delta_actions`` differs from what a file says; None where it does not."""
    if said is None or said.relative == [number < delta for number in range(len(said.relative))]:
        return None
    leading = said.relative.index(False) if False in said.relative else len(said.relative)
    remedy = f"set policy.delta_actions: {leading}"
    if any(said.relative[leading:]):
        remedy = "policy.delta_actions makes leading numbers relative and no others, so these weights do not fit it"
    return f"{_told(said)}, policy.delta_actions = {delta} takes {_named(range(delta))} for that; {remedy}"


def agreement(said: Said | None, delta: int) -> str:
    """In words, what vouches for ``policy.delta_actions`` where there is no mismatch."""
    if said is None:
        return (
            "no file of the weights says which action numbers are relative to the state; "
            f"policy.delta_actions = {delta} is taken on trust"
        )
    return f"{_told(said)}, as policy.delta_actions = {delta} does"


def _told(said: Said) -> str:
    which = _named([number for number, relative in enumerate(said.relative) if relative])
    return f"{said.file} takes {which} of {len(said.relative)} action numbers as relative to the state"


def _named(numbers: "range | list[int]") -> str:
    """The numbers, counted from 0; runs as first to last."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs) or "none"


def _of_steps(folder: Path, numbers: int) -> list[bool]:
    before, after = (_enabled(folder / name) for name in (LEROBOT, LEROBOT_POST))
    path = folder / LEROBOT
    kinds = [kind for kind, _ in (*before, *after)]
    strange = [kind for kind in kinds if kind not in (*RELATIVE, ABSOLUTE)]
    if strange or len(before) > 1:
        raise UserError(f"{path}: transforms actions by {', '.join(kinds)}; only {RELATIVE[0]}, once, is known")
    settings = before[0][1] if before else {}
    if settings.keys() - SETTINGS:
        extra = ", ".join(sorted(settings.keys() - SETTINGS))
        raise UserError(f"{path}: {before[0][0]} has settings that are not known ({extra}); use other weights")
    if (folder / LEROBOT_POST).is_file() and bool(before) != bool(after):
        raise UserError(
            f"{path}: has relative actions {'on' if before else 'off'}, and {LEROBOT_POST} does "
            f"{'not make them absolute' if before else 'make them absolute'}; copy or download both again"
        )
    if not before:
        return [False] * numbers
    return _mask(path, settings.get("action_names"), settings.get("exclude_joints"), numbers)


def _enabled(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Kind and settings of the steps that make actions relative or absolute and are on."""
    if not path.is_file():
        return []
    found = []
    try:
        for step in read_json(path, AGAIN)["steps"]:
            kind, settings = str(step.get("registry_name", "")), step.get("config") or {}
            ours = kind.endswith((*RELATIVE, ABSOLUTE))
            # LeRobot's own default is off.
            if ours and settings.get("enabled", False):
                found.append((kind, dict(settings)))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: no list of LeRobot's steps ({error}); copy or download it again") from None
    return found


def _mask(path: Path, names: object, excluded: object, numbers: int) -> list[bool]:
    """LeRobot's rule: a number is left absolute if its name holds one of the excluded words; one without a name is
    relative, as all are without names or words."""
    known, words = _words(path, names)[:numbers], [word for word in _words(path, excluded) if word]
    mask = [not any(word in name for word in words) for name in known]
    return mask + [True] * (numbers - len(mask))


def _words(path: Path, value: object) -> list[str]:
    """In small letters; none where there is no list."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise UserError(f"{path}: {value!r:.60} is no list of action numbers' names; copy or download it again")
    return [word.lower() for word in value]

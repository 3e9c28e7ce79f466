"""Which stages a command line asks for, by the names that params.yaml makes; a wrong one is told before any starts."""

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import filter as matching
from pathlib import Path

import yaml

from pirl_core.errors import UserError
from pirl_core.params.errors import unknown
from pirl_core.params.file import resolve
from pirl_core.params.sections import Params
from pirl_core.readers.text import read_bytes


def stage_names(params: Params) -> list[str]:
    """Every stage that dvc.yaml unfolds to, as DVC calls it: ``rl@metaworld-flow_sde-0``."""
    experiments, seeds, risk = list(params.experiments), params.seeds, params.risk
    return [
        *[f"curate@{e}" for e in experiments],
        *[f"sft@{e}-{s}" for e in experiments for s in seeds],
        *[f"rl@{e}-{m}-{s}" for e in experiments for m in params.methods for s in seeds],
        *[f"evaluate@{e}-{p}-{s}" for e in experiments for p in params.policies for s in seeds],
        *[f"risk@{e}-{m}-{s}" for e in risk.experiments for m in risk.methods for s in seeds],
        "report",
    ]


def policy_folder(path: Path) -> Path:
    """The path. Raises UserError, with the policies that there are, where it is no folder."""
    if path.is_dir():
        return path
    known = sorted(str(config.parent) for config in Path("outputs/policy").glob("*/config.json"))
    there = unknown(str(path), known, "no such folder") if known else "no such folder; make reproduce makes policies"
    raise UserError(f"{path}: {there}")


def evaluations(params: Params, experiment: str) -> list[str]:
    """The last stages of one experiment, without a benchmark its SFT. Raises UserError where params.yaml does not have
    it."""
    if experiment in params.risk.experiments:
        last = "risk"
    elif experiment in params.experiments:
        last = "sft" if resolve(params, experiment).env.benchmark is None else "evaluate"
    else:
        known = [*params.experiments, *params.risk.experiments]
        raise UserError(unknown(experiment, known, f"experiment '{experiment}' is unknown"))
    return [name for name in stage_names(params) if name.startswith(f"{last}@{experiment}-")]


def _stages_of(path: Path) -> set[str]:
    """As DVC reads it, which tells what is wrong with the file itself."""
    try:
        content = yaml.safe_load(read_bytes(path, "it lies in the repository's root"))
        return set(content["stages"])
    except (yaml.YAMLError, KeyError, TypeError):
        return set()


def find_stages(params: Params, targets: Sequence[str], glob: bool, folder: Path) -> list[str]:
    """What DVC would begin with; all where there are no targets. Stages that only DVC knows are left out.

    glob: targets are patterns; for one that matches nothing DVC would run everything. Raises UserError for a target
    that is no stage.
    """
    names = stage_names(params)
    kinds = list(dict.fromkeys(name.partition("@")[0] for name in names))
    # DVC also takes files, and a user may have stages of their own in dvc.yaml.
    others = _stages_of(folder / "dvc.yaml") - {*kinds}
    found: list[str] = []
    for target in targets:
        if not target.strip(":"):
            raise UserError("a stage's name is empty; leave it out for all stages")
        name = target.removeprefix("dvc.yaml").removeprefix(":")
        chosen = [each for each in names if name in ("", each, each.partition("@")[0])]
        if glob and not chosen:
            chosen = matching(names, name) or matching(others, name)
        foreign = ":" in name or name.endswith((".yaml", ".dvc")) or (folder / target).is_dir()
        if not chosen and not foreign and name.partition("@")[0] not in others:
            near = get_close_matches(target, names, n=1)
            raise UserError(unknown(target, near or kinds, f"stage '{target}' is unknown"))
        found += chosen
    return found if targets else names

"""What stages need from outside the pipeline, looked for before any runs: it may be hours until one asks for it."""

from collections.abc import Iterable
from pathlib import Path

from pirl_core.checkpoints.source import find_folder
from pirl_core.commands.targets import stage_names
from pirl_core.envs.assets import require_own
from pirl_core.errors import UserError
from pirl_core.facts import facts_of
from pirl_core.params.file import Run, resolve
from pirl_core.params.sections import Params


def lacking(params: Params, folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Of these stages, run in ``folder``, those that will not find their data, weights or assets: what is wrong.

    Of a hub id only the form is known here.
    """
    wrong = {experiment: _wrong(resolve(params, experiment), folder) for experiment in params.experiments}
    found = {}
    for name in names:
        kind, _, rest = name.partition("@")
        experiment = rest.partition("-")[0]
        if said := wrong.get(experiment, {}).get(kind):
            found[name] = f"experiment {experiment}: {said}"
    return found


def with_needs(params: Params, names: Iterable[str]) -> list[str]:
    """These stages and all that they need, in the order of the pipeline."""
    wanted = set(names)
    for name in reversed(stage_names(params)):
        if name in wanted:
            wanted |= set(needs(params, name))
    return [name for name in stage_names(params) if name in wanted]


def needs(params: Params, name: str) -> list[str]:
    """The stages whose outputs it reads."""
    kind, _, rest = name.partition("@")
    experiment, *middle, seed = rest.split("-") if "-" in rest else (rest, "")
    match kind:
        case "report":
            return [each for each in stage_names(params) if each.startswith(("evaluate@", "risk@"))]
        case "evaluate" if middle != ["sft"]:
            return [f"rl@{rest}", f"sft@{experiment}-{seed}"]
        case "rl":
            return [f"curate@{experiment}", f"sft@{experiment}-{seed}"]
        case "evaluate":
            return [f"sft@{experiment}-{seed}"]
        case "sft":
            return [f"curate@{experiment}"]
        case _:
            return []


def _wrong(run: Run, folder: Path) -> dict[str, str]:
    """By kind of stage, in a line."""
    found: dict[str, str] = {}
    try:
        _ = run.env.world
    except UserError as error:
        found |= dict.fromkeys(("rl", "evaluate"), str(error))
    if assets := _assets(run):
        found |= dict.fromkeys(("rl", "evaluate"), assets)
        if run.curate.dataset is None:
            found["curate"] = assets
    if run.curate.dataset is not None and not (folder / Path(run.curate.dataset).expanduser()).is_file():
        found["curate"] = _source("curate.dataset", run.curate.dataset, run.curate.dataset_revision, folder)
    for key, source, revision in (
        ("policy.pretrained", run.policy.pretrained, run.policy.revision),
        ("policy.tokenizer", run.policy.tokenizer if run.policy.size == "full" else None, None),
    ):
        if source is not None and (said := _source(key, source, revision, folder)):
            found["sft"] = said
    return found


def _assets(run: Run) -> str:
    """Of a folder that a variable names; without one they are downloaded."""
    try:
        if assets := facts_of(run.env.benchmark).assets:
            require_own(assets)
    except UserError as error:
        return str(error)
    return ""


def _source(key: str, source: str, revision: str | None, folder: Path) -> str:
    try:
        find_folder(source, revision, folder)
    except UserError as error:
        return f"{key} = {error}"
    return ""

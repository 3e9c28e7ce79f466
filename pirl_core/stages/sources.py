"""Stage sources: what every stage is made of besides parameters and outputs of others, as small files of digests.

DVC runs it each time, first, and the others depend on its files in place of source files: one a stage and experiment,
of stages rl and evaluate one a method too, ``outputs/sources/rl/metaworld-flow_sde``, with a line for each source file
and each folder or hub repository that params.yaml names. Stages risk and report have one each. A comment leaves them as
they are, and so does what is added beside.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from pirl_core import console
from pirl_core.errors import UserError, told
from pirl_core.facts import facts_of
from pirl_core.files import write_text
from pirl_core.params.file import Run, load_params, resolve
from pirl_core.params.sections import Params, exploring_labels
from pirl_core.provenance.code import WORLDS, Code, code_of
from pirl_core.provenance.data import folder_digest
from pirl_core.readers.hub import COMMIT, HUB_ID, commit_of
from pirl_core.readers.text import read_text

FOLDER = Path("outputs/sources")
DATASETS = Path("outputs/datasets")
"""Of each experiment a link to the folder or file that ``curate.dataset`` names, or a file that says there is none: DVC
looks at what it holds whenever it is asked, and not only when this stage has run."""
NO_FOLDER = "no folder\n"
ROOT = Path(__file__).resolve().parents[2]
UNKNOWN = "unknown"
WHOLE = ("risk", "report")
"""Stages whose code is that of no experiment."""


class Source(NamedTuple):
    """parts: chosen benchmarks, backbones and noise rules, by their kind. inputs: key of params.yaml → digest of the
    folder it names, or the commit of the hub's repository, or ``unknown`` where the hub does not answer."""

    parts: dict[str, tuple[str, ...]]
    code: Code
    inputs: dict[str, str]

    @property
    def text(self) -> str:
        """The file: a line for each source file, and for each input."""
        lines = [f"{path} {digest}\n" for path, digest in sorted(self.code.files.items())]
        return "".join([*lines, *(f"{key} = {digest}\n" for key, digest in self.inputs.items())])


def path_of(stage: str, experiment: str, method: str = "") -> Path:
    """Its file."""
    if stage in WHOLE:
        return FOLDER / stage
    return FOLDER / stage / (f"{experiment}-{method}" if stage in ("rl", "evaluate") else experiment)


def source_of(stage: str, runs: Sequence[Run], before: str, ask: bool = False, method: str = "") -> Source:
    """runs: of the experiment, for the report of all, for risk none. before: the file as it is, which pins what was
    found on the hub. ask: the hub once more, where it did not answer then. method: whose policy an evaluation is of.

    Raises UserError for a folder that cannot be read.
    """
    explores = stage == "rl" or (stage == "evaluate" and bool(exploring_labels(runs[0].evaluate, method)))
    parts = {
        "benchmarks": tuple(sorted({run.env.benchmark for run in runs if run.env.benchmark is not None})),
        "backbones": tuple(sorted({run.policy.backbone for run in runs})) if stage in ("sft", "rl", "evaluate") else (),
        "noise_rules": tuple(sorted({run.rl.noise_rule for run in runs})) if explores else (),
    }
    own = {task.rpartition(":")[0] for run in runs for task in run.env.tasks if facts_of(run.env.benchmark).of}
    if worlds := tuple(sorted(own - {""})):
        parts[WORLDS] = worlds
    inputs = {} if stage in WHOLE else _inputs(stage, runs[0], dict(_pairs(before)), ask)
    return Source(parts, _code_of(stage, tuple(parts.items())), inputs)


@cache
def _code_of(stage: str, parts: tuple[tuple[str, tuple[str, ...]], ...]) -> Code:
    return code_of(stage, dict(parts), ROOT)


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        key, found, digest = line.partition(" = ")
        if found:
            yield key, digest


def _inputs(stage: str, run: Run, before: dict[str, str], ask: bool) -> dict[str, str]:
    curate, policy = run.curate, run.policy
    wanted: list[tuple[str, str | None, str | None, str]] = []
    if stage == "curate":
        wanted = [("curate.dataset", curate.dataset, curate.dataset_revision, "dataset")]
    if stage == "sft" and policy.size == "full":
        wanted = [
            ("policy.pretrained", policy.pretrained, policy.revision, "model"),
            ("policy.tokenizer", policy.tokenizer, None, "model"),
        ]
    found = {}
    for key, source, revision, kind in wanted:
        if source is not None:
            name, asked = _input(key, source, revision, kind, before, ask)
            found[name] = asked
    if stage != "sft" and (name := facts_of(run.env.benchmark).assets):
        from pirl_core.envs.assets import ASSETS

        found["assets"] = sha256(repr(ASSETS[name]).encode()).hexdigest()[:16]
    return found


def _input(
    key: str, source: str, revision: str | None, kind: str, before: dict[str, str], ask: bool
) -> tuple[str, str]:
    """A folder or file by its content; a repository by its commit, which is asked for once."""
    path = Path(source).expanduser()
    if path.exists():
        return key, folder_digest(path)
    if not HUB_ID.fullmatch(source):
        return key, UNKNOWN  # the stage that reads it tells what is wrong
    whole = f"{key} {source}@{revision or 'main'}"
    if revision and COMMIT.fullmatch(revision):
        return whole, revision
    if whole in before and not (ask and before[whole] == UNKNOWN):
        return whole, before[whole]
    return whole, _commit(source, revision, kind)


@cache
def _commit(source: str, revision: str | None, kind: str) -> str:
    """Many experiments share a repository, and a hub out of reach takes its time."""
    try:
        return commit_of(source, revision, kind)
    except UserError:
        return UNKNOWN


def pinned(run: Run, source: Source) -> Run:
    """The run with the hub's commits in place of branches, tags and nothing."""
    found = {key.split(" ")[0]: value for key, value in source.inputs.items() if " " in key and value != UNKNOWN}
    curate, policy = found.get("curate.dataset"), found.get("policy.pretrained")
    if curate:
        run = run._replace(curate=run.curate.model_copy(update={"dataset_revision": curate}))
    if policy:
        run = run._replace(policy=run.policy.model_copy(update={"revision": policy}))
    return run


def read_source(path: Path) -> str:
    """The file; empty where there is none."""
    return read_text(path, "delete it") if path.exists() else ""


def write_sources(params: Params) -> None:
    """All files, those that are right left alone; what params.yaml no longer has goes."""
    written = set()
    _commit.cache_clear()
    for stage, experiment, method, runs in _all(params):
        path = path_of(stage, experiment, method)
        before = read_source(path)
        text = source_of(stage, runs, before, True, method).text
        if text != before:
            write_text(path, text)
        written.add(path)
    for path in FOLDER.rglob("*"):
        if path.is_file() and path not in written:
            path.unlink()
    _link_datasets({experiment: resolve(params, experiment).curate.dataset for experiment in params.experiments})
    # The report depends on them, and where params.yaml asks for none of their runs no stage makes them.
    for stage in ("sft", "rl", "evaluate", "risk", "run"):
        Path("outputs", stage).mkdir(parents=True, exist_ok=True)


def _link_datasets(named: Mapping[str, str | None]) -> None:
    """named: by experiment, a folder, a hub id or none. What is right is left alone; other links and files go."""
    DATASETS.mkdir(parents=True, exist_ok=True)
    for path in DATASETS.iterdir():
        if path.name not in named:
            path.unlink()
    for experiment, source in named.items():
        path, folder = DATASETS / experiment, Path(source or "").expanduser().absolute()
        if source and folder.exists():
            if not path.is_symlink() or path.readlink() != folder:
                path.unlink(missing_ok=True)
                path.symlink_to(folder)
        elif path.is_symlink() or not path.exists():
            path.unlink(missing_ok=True)
            write_text(path, NO_FOLDER)


def _all(params: Params) -> Iterable[tuple[str, str, str, list[Run]]]:
    """(stage, experiment, method, runs) of every file."""
    for experiment in params.experiments:
        run = resolve(params, experiment)
        for stage in ("curate", "sft"):
            yield stage, experiment, "", [run]
        for method in params.methods:
            yield "rl", experiment, method, [resolve(params, experiment, method)]
        for policy in params.policies:
            before_rl = policy == "sft"
            yield "evaluate", experiment, policy, [run if before_rl else resolve(params, experiment, policy)]
    if params.risk.experiments:
        yield "risk", "", "", []
    yield "report", "", "", [resolve(params, experiment) for experiment in params.experiments]


def main(argv: Sequence[str] | None = None) -> int:
    console.speak()
    about = "Stage sources of dvc.yaml: what the code of every stage does, for DVC to depend on."
    parser = argparse.ArgumentParser(prog="python -m pirl_core.stages.sources", description=about)
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="parameter file (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    try:
        write_sources(load_params(args.params))
    except (UserError, OSError) as error:
        if (said := told(error)) is None:
            raise
        return console.refuse("sources", said)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

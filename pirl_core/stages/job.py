"""What one stage is asked to do, on which parameters and which code; and whether DVC will record it as that."""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pirl_core.errors import UserError
from pirl_core.params.file import Run, load_params, resolve, resolve_risk
from pirl_core.params.sections import Curate, Env, Evaluate, Experiment, Policy, Risk, Rl, Sft, Supervision
from pirl_core.provenance.packages import versions
from pirl_core.stages.sources import Source, path_of, pinned, read_source, source_of
from pirl_core.training import resume

AGAIN = "run it again: what is finished stays"
# What each stage is asked for, and the sections of params.yaml that it may read: dvc.yaml lists the same ones.
NEEDS: dict[str, tuple[str, ...]] = {
    "curate": ("experiment",),
    "sft": ("experiment", "seed"),
    "rl": ("experiment", "method", "seed"),
    "evaluate": ("experiment", "method", "seed"),
    "risk": ("experiment", "method", "seed"),
    "report": (),
}
READS: dict[str, tuple[str, ...]] = {
    "curate": ("env", "curate"),
    "sft": ("env", "policy", "sft"),
    "rl": ("env", "sft", "rl"),
    "evaluate": ("env", "evaluate"),
    "risk": ("risk",),
    "report": ("report", "evaluate"),
}


class Sections(NamedTuple):
    """Those of `Run`, and of stage risk its own."""

    env: Env
    curate: Curate
    policy: Policy
    sft: Sft
    rl: Rl
    evaluate: Evaluate
    risk: Risk


class Job(NamedTuple):
    """What a stage is asked to do.

    name: ``E``, ``E-S`` or ``E-M-S``; names the output folders. method: for evaluate also 'sft', the policy before RL.
    entry: the experiment's labels; stage risk has none. run: the sections, overrides merged; one that is not in the
    stage's READS raises.
    """

    stage: str
    name: str
    experiment: str
    method: str
    seed: int
    entry: Experiment
    run: Sections
    supervision: Supervision
    source: Source

    @property
    def label(self) -> str:
        """How its lines on the terminal begin."""
        return f"[{self.stage} {self.name}]"

    def parameters(self) -> dict[str, Any]:
        """The sections that the stage reads, as plain data."""
        return {section: getattr(self.run, section).model_dump() for section in READS[self.stage]}

    def versions(self) -> dict[str, str]:
        """Of every package that the stage loads."""
        return versions(self.source.code.packages, self.source.parts["benchmarks"])

    def fingerprint(self, inputs: Iterable[Path]) -> str:
        """Of all that this job's result depends on, code and packages too: only a checkpoint that bears it may be gone
        on from. inputs: the folders of other stages that it reads."""
        made_of = [self.stage, self.name, self.parameters(), self.source.text, self.versions(), sys.version]
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
        for path in (path for folder in inputs for path in sorted(folder.rglob("*")) if path.is_file()):
            digest.update(f"{path.parent.name}/{path.name}:{resume.checksum(path)}".encode())
        return digest.hexdigest()[:16]


def require(folder: Path, stage: str) -> None:
    """Raises UserError where ``stage``, as DVC calls it, has not written this folder yet."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not there yet; run make stage STAGE={stage} first")


def read_job(stage: str, args: argparse.Namespace, source: Source | None = None) -> Job:
    """What the command line asks for. source: as it was found before; None: looked at now.

    Raises UserError for bad parameters, and where the code has changed since DVC looked.
    """
    params = load_params(args.params)
    method = getattr(args, "method", "")
    runs, sections = [], dict[str, Any]()
    if stage == "risk":
        sections = {"risk": resolve_risk(params, args.experiment, method)}
    else:
        before_rl = stage == "evaluate" and method == "sft"
        runs = [resolve(params, args.experiment, method if "method" in NEEDS[stage] and not before_rl else None)]
        if stage in ("rl", "evaluate"):
            _ = runs[0].env.world  # told before anything else
    seed = getattr(args, "seed", 0)
    if "seed" in NEEDS[stage] and seed not in params.seeds:
        raise UserError(f"--seed {seed} is not in 'seeds' {params.seeds} of {args.params}; add it there")
    parts = [args.experiment, *([method] if method else []), *([str(seed)] if "seed" in NEEDS[stage] else [])]
    source = source or look(stage, runs, args.experiment, method)
    for run in runs:
        sections |= pinned(run, source)._asdict()
    read: Any = [sections[s] if s in READS[stage] else _Unlisted(stage, s) for s in Sections._fields]
    entry: Any = params.experiments[args.experiment] if runs else _Unlisted(stage, "experiments")
    return Job(stage, "-".join(parts), args.experiment, method, seed, entry, Sections(*read), params.run, source)


def look(stage: str, runs: Sequence[Run], experiment: str = "", method: str = "") -> Source:
    """What the stage is made of now. Raises UserError where DVC would record something else."""
    path = path_of(stage, experiment, method)
    before = read_source(path)
    source = source_of(stage, runs, before, method=method)
    if "DVC_STAGE" in os.environ and source.text != before:
        raise UserError(f"{_edited(before, source.text)} since this run of the pipeline began; {AGAIN}")
    return source


def require_same_source(source: Source, stage: str, experiment: str = "", method: str = "") -> None:
    """Raises UserError where DVC would record other code than ``source``."""
    now = read_source(path_of(stage, experiment, method))
    if "DVC_STAGE" in os.environ and source.text != now:
        raise UserError(f"{_edited(source.text, now)} while this ran: nothing is recorded; {AGAIN}")


def require_same(job: Job, args: argparse.Namespace) -> None:
    """DVC reads parameters when a stage has ended. Raises UserError where they are not those that it ran on."""
    path = args.params
    try:
        now = read_job(job.stage, args, job.source)
    except UserError as error:
        raise UserError(f"{path} changed while this ran: nothing is recorded; {AGAIN}. It says now: {error}") from None
    # Of the experiment's labels only evaluations keep one.
    labels = ("model",) if job.stage == "evaluate" else ()
    old, new = (
        _flat({**each.parameters(), **{name: getattr(each.entry, name) for name in labels}}) for each in (job, now)
    )
    for key in {**old, **new}:
        if old.get(key) != new.get(key):
            said = f"{path} changed while this ran ({key}: {old.get(key)} → {new.get(key)}): nothing is recorded"
            raise UserError(f"{said}; run it again: with the old values it goes on from its checkpoint")
    require_same_source(job.source, job.stage, job.experiment, job.method)


def _flat(values: Any, above: str = "") -> dict[str, Any]:
    """Dotted key → value."""
    if not isinstance(values, dict):
        return {above: values}
    return {key: value for name in values for key, value in _flat(values[name], f"{above}.{name}".lstrip(".")).items()}


def _edited(before: str, after: str) -> str:
    """Of two texts of digests, the first thing that differs."""
    lines = sorted({*before.splitlines()} ^ {*after.splitlines()})
    return f"{lines[0].rpartition(' ')[0].removesuffix(' =')} has changed" if lines else "the sources have changed"


class _Unlisted:
    """Stands for a section that the stage does not declare: DVC would not see it change."""

    def __init__(self, stage: str, section: str) -> None:
        self._message = f"stage {stage} reads section {section}: add it to READS in stages/job.py and to dvc.yaml"

    def __getattr__(self, name: str) -> object:
        raise AssertionError(self._message)

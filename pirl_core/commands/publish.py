"""``pirl export`` and ``pirl push``. torch and the hub's library load only when one of them runs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt

from pirl_core.checkpoints.layouts import TARGETS, layout_of
from pirl_core.commands.targets import policy_folder
from pirl_core.errors import UserError
from pirl_core.readers.text import read_json
from pirl_core.readers.typed import Open, check
from pirl_core.report.card import BASES, Facts, model_card
from pirl_core.report.folder import results_of
from pirl_core.report.runs import revision_label

if TYPE_CHECKING:
    from pirl_core.report.inputs import Clip

EXPORT_SUMMARY = "write a policy in the layout of openpi, lerobot or Isaac-GR00T"
PUSH_SUMMARY = "put a policy on the Hugging Face hub, with a model card, as one commit"
POLICY = "outputs/policy/metaworld-flow_sde-0"
RECORD = "outputs/run/rl/metaworld-flow_sde-0.json"
SHOWN = 4
"""Videos of a card."""
RERUN = "rerun the stage that writes it, or give its path"
OWN_DATA = "scripted demonstrations made by this pipeline (stage curate)"


class _Seeds(Open):
    training: NonNegativeInt


class _Record(Open):
    """Of a run of stage sft or rl."""

    stage: Literal["sft", "rl"]
    name: str
    seeds: _Seeds
    params: dict[str, Any]
    revision: str
    edits: str | None = None


class _Row(Open):
    experiment: str
    method: str
    split: str
    benchmark: str
    model: str
    seeds: list[int]
    n: PositiveInt
    successes: NonNegativeInt | None = None
    rate: FiniteFloat
    ci_low: FiniteFloat
    ci_high: FiniteFloat
    score: Literal["success", "return"] = "success"


class _Results(Open):
    """Of results/<scale>/metrics.json, what the card shows."""

    rows: list[_Row]


class _Base(Open):
    """What stage sft wrote of the weights it started from."""

    family: str
    repo: str | None
    commit: str | None
    notes: list[str] = Field(default_factory=list)


def add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", type=Path, help=f"policy folder, such as {POLICY}")
    parser.add_argument(
        "out",
        type=Path,
        help="folder to write; an earlier export there is replaced",
    )
    parser.add_argument("--to", required=True, choices=TARGETS, help="the layout")
    parser.add_argument(
        "--dtype", choices=("keep", "float32", "bfloat16"), default="keep", help="of the weights (default: %(default)s)"
    )


def run_export(args: argparse.Namespace) -> None:
    """Raises UserError where the policy cannot be read, has no such layout, or there is no room."""
    from pirl_core.checkpoints.export import DTYPES, export
    from pirl_core.policy.folder import load_policy

    policy = load_policy(policy_folder(args.policy))
    layout = layout_of(policy, args.to)
    export(policy.backbone.state_dict(), layout, args.out, DTYPES[args.dtype])
    own = policy.backbone.shape.stem == "conv"
    note = (
        f"; its size is none of {args.to}'s, whose tools cannot build it (see pirl_shape in config.json)" if own else ""
    )
    print(f"{args.out}: {args.policy} in the layout of {args.to}{note}")


def add_push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help=f"policy folder, such as {POLICY}, or one that pirl export wrote")
    parser.add_argument("repo", help="hub id, owner/name; made if it is not there")
    parser.add_argument("--record", type=Path, required=True, help=f"record of the run that made it, such as {RECORD}")
    parser.add_argument(
        "--metrics",
        type=Path,
        help="results for the card, such as results/laptop/metrics.json (default: those of the scale of params.yaml)",
    )
    parser.add_argument("--dataset", default=OWN_DATA, help="hub id or words for the card (default: %(default)s)")
    parser.add_argument(
        "--sft", type=Path, help="folder of its stage sft, which tells the base weights (default: found by the record)"
    )
    parser.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    parser.add_argument("--dry-run", action="store_true", help="print the model card and push nothing")


def run_push(args: argparse.Namespace) -> None:
    """Raises UserError where record, metrics or folder are not fit for it, and for the hub's refusals."""
    facts = _facts(args, check(_Record, read_json(args.record, RERUN), str(args.record), RERUN))
    metrics = args.metrics or results_of() / "metrics.json"
    results = check(_Results, read_json(metrics, RERUN), str(metrics), RERUN)
    clips = _clips(args.record, facts)
    card = model_card(facts, results.model_dump(), clips)
    if args.dry_run:
        print(card, end="")
        return
    from pirl_core.checkpoints.push import push

    message = f"{facts.experiment}-{facts.method}, seed {facts.seed}, code {facts.revision}"
    beside = {path: clip.path for path, clip in clips.items()}
    commit = push(args.folder, args.repo, card, message, private=not args.public, beside=beside)
    print(f"{args.repo}: commit {commit}")


def _facts(args: argparse.Namespace, record: _Record) -> Facts:
    """The stages name their runs E-S (sft) and E-M-S (rl); methods have no dash."""
    seed = record.seeds.training
    stem = record.name.removesuffix(f"-{seed}")
    experiment, _, method = stem.rpartition("-") if record.stage == "rl" else (stem, "", "sft")
    # The record is outputs/run/STAGE/NAME.json.
    sft = args.sft or args.record.resolve().parent.parent.parent / "sft" / f"{experiment}-{seed}"
    base = _base(sft)
    revision = revision_label(record.model_dump())
    return Facts(args.repo, experiment, method, seed, record.params, revision, args.dataset, base)


def _clips(record: Path, facts: Facts) -> "dict[str, Clip]":
    """Of the policy's own evaluation a few videos that people know the policy by, by their path in the repository."""
    from pirl_core.checkpoints.push import VIDEOS
    from pirl_core.report.inputs import read_clips
    from pirl_core.report.videos import choose

    found = read_clips(record.resolve().parent.parent.parent, facts.experiment, facts.method, facts.seed)
    return {f"{VIDEOS}/{clip.path.name}": clip for clip in choose(found, SHOWN) if clip.path.suffix == ".gif"}


def _base(sft: Path) -> dict[str, Any] | None:
    """What stage sft wrote of the weights it started from; None for a policy from scratch."""
    if not (sft / "metrics.jsonl").is_file():
        raise UserError(f"{sft}: no folder of stage sft, so the base weights are unknown; give it with --sft")
    path = sft / "pretrained.json"
    if not path.exists():
        return None
    base = check(_Base, read_json(path, RERUN), str(path), RERUN)
    if base.family not in BASES:
        raise UserError(
            f"{path}: the terms of family '{base.family}' are not known here, only those of {', '.join(BASES)}; add "
            "them to pirl_core/report/card.py"
        )
    return base.model_dump()

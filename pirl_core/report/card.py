"""The model card of a policy: what it is, how well it does, from what it was made, and under which terms."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from pirl_core.errors import UserError
from pirl_core.report.tables import SINGLE_SEED, amount, is_return, score_title, split_title

if TYPE_CHECKING:
    from pirl_core.report.inputs import Clip

Row = Mapping[str, Any]


class Base(NamedTuple):
    """A family of published weights: whoever trained on from them passes their terms on. licence: the hub's name of
    it; 'other' needs name and link."""

    title: str
    licence: str
    licence_name: str
    link: str
    terms: str


# Terms as their publishers state them, written down in 2026. They change: verify each at its link before publishing.
# By family, as policy.backbone of params.yaml names it.
BASES: dict[str, Base] = {
    "pi0": Base(
        "π0", "gemma", "Apache-2.0 with the Gemma terms", "https://ai.google.dev/gemma/terms",
        "openpi publishes the weights under Apache-2.0; they contain PaliGemma, so the Gemma terms of use go along.",
    ),
    "pi05": Base(
        "π0.5", "gemma", "Apache-2.0 with the Gemma terms", "https://ai.google.dev/gemma/terms",
        "openpi publishes the weights under Apache-2.0; they contain PaliGemma, so the Gemma terms of use go along.",
    ),
    "groot": Base(
        "GR00T N1.5", "other", "nvidia-nscl-v1",
        "https://huggingface.co/nvidia/GR00T-N1.5-3B",
        "NVIDIA's non-commercial source code licence (NSCL v1): research and evaluation only, also for what derives.",
    ),
    "smolvla": Base(
        "SmolVLA", "apache-2.0", "Apache-2.0", "https://huggingface.co/lerobot/smolvla_base",
        "Apache-2.0.",
    ),
}  # fmt: skip
OWN_LICENCE = "apache-2.0"


class Facts(NamedTuple):
    """Where a policy comes from. method: 'sft' for one before RL.

    base: what stage sft recorded of the weights it started from, ``policy.pretrained.origin_of``: family, and repo with
    commit or folder, and notes on its files; None if trained from scratch. dataset: a hub id or words. parameters: the
    sections of params.yaml that its stage read. revision: of the code.
    """

    repo: str
    experiment: str
    method: str
    seed: int
    parameters: Mapping[str, Any]
    revision: str
    dataset: str
    base: Mapping[str, Any] | None


def model_card(facts: Facts, metrics: Mapping[str, list[Row]], clips: "Mapping[str, Clip]") -> str:
    """README.md of the repository. metrics: the content of results/<scale>/metrics.json. clips: by their path in it.

    Raises UserError where the metrics have no row of this experiment and method: a card without numbers helps nobody.
    """
    rows = [row for row in metrics.get("rows", []) if row["experiment"] == facts.experiment]
    if not any(row["method"] == facts.method for row in rows):
        known = ", ".join(sorted({f"{row['experiment']}-{row['method']}" for row in metrics.get("rows", [])}))
        raise UserError(
            f"no results for {facts.experiment}-{facts.method} among those there are ({known or 'none'}); "
            "evaluate it and rerun stage report"
        )
    rows = [row for row in rows if row["method"] in ("sft", facts.method)]
    parts = [
        f"---\n{_metadata(facts)}---",
        f"# {facts.repo.split('/')[-1]}",
        f"A flow-based vision-language-action policy: experiment `{facts.experiment}`, "
        f"{'supervised fine-tuning' if facts.method == 'sft' else f'online RL with `{facts.method}`'}, "
        f"training seed {facts.seed}.",
        f"## Results\n\n{_table(rows)}\n\n{_legend(rows, facts)}",
        *([f"## Videos\n\n{_shown(clips)}"] if clips else []),
        f"## Origin\n\n{_origin(facts)}",
        f"## Parameters\n\n```yaml\n{_yaml(dict(facts.parameters))}```",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(facts: Facts) -> str:
    base = BASES[facts.base["family"]] if facts.base else None
    data: dict[str, Any] = {"license": base.licence if base else OWN_LICENCE}
    if base and base.licence == "other":
        data |= {"license_name": base.licence_name, "license_link": base.link}
    if facts.base and facts.base["repo"]:
        data["base_model"] = facts.base["repo"]
    if _is_id(facts.dataset):
        data["datasets"] = [facts.dataset]
    return _yaml(
        {**data, "pipeline_tag": "robotics", "tags": ["robotics", "vision-language-action", "reinforcement-learning"]}
    )


def _table(rows: list[Row]) -> str:
    title = score_title(rows, "success")
    lines = [f"| policy | split | {title} | 95 % interval | episodes |", "|---|---|---:|---:|---:|"]
    for row in rows:
        if is_return(row):
            low, high = amount(row["ci_low"]), amount(row["ci_high"])
            lines.append(f"| {row['method']} | {row['split']} | {amount(row['rate'])} | {low} to {high} | {row['n']} |")
            continue
        lines.append(
            f"| {row['method']} | {row['split']} | {100 * row['rate']:.1f} % "
            f"| {100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f} % | {row['successes']} of {row['n']} |"
        )
    return "\n".join(lines)


def _legend(rows: list[Row], facts: Facts) -> str:
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    pooled = f"The episodes of training seeds {', '.join(map(str, seeds))} are pooled; this policy is that of seed "
    return (
        f"Benchmark {rows[0]['benchmark']}, model {rows[0]['model']}. "
        "Intervals are for new initial states and new training seeds. "
        + (f"{pooled}{facts.seed}." if len(seeds) > 1 else SINGLE_SEED)
    )


def _shown(clips: "Mapping[str, Clip]") -> str:
    lines = ["Episodes of the evaluation, drawn afterwards from their recorded actions."]
    for path, clip in clips.items():
        result = (
            f"return {clip.returned:.0f}" if clip.returned is not None else "success" if clip.success else "failure"
        )
        lines.append(f"![{clip.task}]({path})\n\n`{clip.task}`, {split_title(clip.split)}: {result}")
    return "\n\n".join(lines)


def _origin(facts: Facts) -> str:
    lines = [
        f"* Code revision: `{facts.revision}`",
        f"* Dataset: {f'`{facts.dataset}`' if _is_id(facts.dataset) else facts.dataset}",
    ]
    if facts.base is None:
        return "\n".join([*lines, "* Base model: none, trained from scratch", f"* Licence: {OWN_LICENCE}"])
    base, repo = BASES[facts.base["family"]], facts.base["repo"]
    where = f"[`{repo}`](https://huggingface.co/{repo}) at `{facts.base['commit']}`" if repo else "from a local folder"
    lines += [
        f"* Base model: {base.title}, {where}",
        f"* Licence of the base weights, which binds these too: [{base.licence_name}]({base.link}). {base.terms}",
        *(f"* {note}" for note in facts.base.get("notes", [])),
    ]
    return "\n".join(lines)


def _is_id(text: str) -> bool:
    return text.count("/") == 1 and " " not in text


def _yaml(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)

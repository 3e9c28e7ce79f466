"""Results as Markdown: the page's twin report.md, and the parts of it that other pages show too."""

from collections.abc import Sequence
from typing import Any

from pirl_core.params.sections import Params
from pirl_core.report import tables
from pirl_core.report.older import Older, older_note
from pirl_core.report.papers.beside import LABELS, published
from pirl_core.report.tables import Row

Table = tuple[list[str], list[list[str]]]  # header, rows of cells
INTERVALS = (
    "Success is the share of episodes that reach the goal within the time limit. Every training seed plays the same "
    "initial states; the 95 % intervals are for new training seeds and new initial states (docs/statistics.md)."
)
RETURNS = (
    "Return is the sum of an episode's rewards, and the figures are means of it. Every training seed plays the same "
    "initial states; the 95 % intervals are bootstrapped over training seeds and initial states (docs/statistics.md)."
)
CHAINS = (
    "Len-k is the share of sequences of which at least the first k subtasks were solved, each in turn without a reset; "
    "average is the number solved. An episode that is a sequence succeeds with its last subtask. A subtask has so many "
    "steps; where the protocol gives more, the figures are not those of the protocol."
)
NO_WARNING = "No training run raised a warning."
EXPLORING = (
    "The first episodes of ID once more, with the noise with which RL explored: success of the policy after RL, and of "
    "the SFT policy that it began from, under the same noise."
)
SERVED = (
    "Policies that somebody else serves, in the same episodes (docs/serving.md). Where the start noise is the server's "
    "own, another run of the same policy may differ."
)
PAIRS = (
    "Every policy plays the same episodes, so each RL episode is paired with the SFT episode of the same task, "
    "initial state and training seed."
)


def render_markdown(
    params: Params, metrics: dict[str, list[Row]], runs: dict[str, Any], warned: Table, older: Older
) -> str:
    """Tables only; learning.svg beside it is its one figure. warned: `tables.warnings_table`."""
    groups, chains = tables.groups_table(metrics, older), tables.chains_table(metrics, older)
    parts = [
        f"# {params.report.title}",
        f"Scale `{params.scale}`, training seeds {', '.join(map(str, params.seeds))}. "
        + intervals_note(metrics["rows"]),
        "## Results",
        *main_table(metrics, params.scale, older),
    ]
    if chains[1]:
        parts += ["## Sequences of subtasks", CHAINS, tables.markdown(*chains)]
    if metrics["differences"]:
        parts += ["## RL − SFT", PAIRS, tables.markdown(*tables.differences_table(metrics, older))]
    if metrics.get("exploring"):
        parts += ["## While exploring", EXPLORING, tables.markdown(*tables.exploring_table(metrics, older))]
    if metrics.get("served"):
        parts += ["## Served by others", SERVED, tables.markdown(*tables.served_table(metrics["served"]))]
    if groups[1]:
        parts += ["## By group of tasks", tables.markdown(*groups)]
    what = tables.score_title(metrics["rows"], "Success", "Return")
    parts += ["## Learning", f"![{what} over RL iterations, one panel per experiment](learning.svg)"]
    parts += ["## Per task, in distribution"]
    for experiment in params.experiments:
        parts += [f"### {experiment}", tables.markdown(*tables.tasks_table(metrics, experiment, "id", older))]
    parts += ["## Warnings", tables.markdown(*warned) if warned[1] else NO_WARNING]
    parts += ["## What ran", runs_sentence(runs), tables.markdown(*tables.runs_table(runs))]
    return "\n\n".join(part for part in parts if part) + "\n"


def intervals_note(rows: Sequence[Row]) -> str:
    """What the figures of ``metrics["rows"]`` are, and their intervals."""
    kinds = dict.fromkeys(RETURNS if tables.is_return(row) else INTERVALS for row in rows)
    return " ".join(kinds)


def main_table(metrics: dict[str, list[Row]], scale: str, older: Older) -> list[str]:
    """The main table and what has to be said below it, in paragraphs; '' for those with nothing to say."""
    rows = metrics["rows"] or metrics["regret"]
    return [
        tables.markdown(*tables.headline_table(metrics, older)),
        tables.seed_note(rows),
        older_note(older),
        regret_note(rows) if metrics.get("regret") else paper_note(rows, scale),
        *tables.shared_starts(metrics),
    ]


def regret_note(rows: Sequence[Row]) -> str:
    """What the numbers of risk-sensitive RL are. rows: of metrics["regret"]."""
    return (
        f"Regret is the sum over K = {rows[0]['episodes']} episodes of J(π*) − J(π_k), both exact, J the entropic risk "
        "value at γ; in brackets its 95 % interval for new training seeds (Student's), where seeds differ. Exponent: "
        "slope of ln regret over ln k from K/4 on; 1 is linear, no learning. Bound: what the paper proves of its own "
        "listing. Authors' logs: mean of their estimates from episode 1,000 to 2,000, which lean upwards where γ < 0."
    )


def paper_note(rows: Sequence[Row], scale: str) -> str:
    """What the paper's column means, in one sentence; '' where no experiment names a paper model.

    rows: of metrics.json.
    """
    models: dict[str, dict[str, None]] = {}
    for row in rows:
        if row["paper_model"]:
            model = str(row["paper_model"])
            models.setdefault(row["benchmark"], {})[LABELS.get(model, model)] = None
    notes = [
        figures.note.format(", ".join(models[name])) for name in models if (figures := published(name)) and figures.note
    ]
    if not notes:
        return ""
    note = " ".join(notes)
    if scale != "paper":
        note += " Our policy, tasks and demonstrations are far smaller at this scale: it is a reference, not a target."
    return note


def runs_sentence(runs: dict[str, Any]) -> str:
    missing = runs["expected"] - runs["recorded"]
    text = (
        f"{runs['recorded']} stage runs took {tables.seconds(runs['total_wall_seconds'])} in all; "
        f"the largest used {tables.memory(runs['peak_memory_mib'])} of memory."
    )
    return text + (f" {missing} left no record." if missing else "")

"""The paper preset beside the paper's tables; ``python -m tests.params.paper_tables`` writes docs/presets.md."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pirl_core.params.file import Run, resolve
from pirl_core.params.preset import load_preset
from pirl_core.params.sections import Params
from pirl_core.readers.strict_yaml import read_yaml
from tests import ROOT

PAGE = ROOT / "docs/presets.md"
DATA = read_yaml(ROOT / "tests/params/paper_tables.yaml")
MARKS = "<!-- tables:begin -->\n", "<!-- tables:end -->"
OURS: dict[str, Callable[[Run], Any]] = {
    "Train epochs": lambda run: run.rl.iterations,
    "RL train steps": lambda run: run.rl.iterations,
    "Global batch size": lambda run: run.rl.minibatch_size,
    "Update epochs": lambda run: run.rl.update_epochs,
    "Actor lr": lambda run: run.rl.actor_lr,
    "Critic lr": lambda run: run.rl.critic_lr,
    "Scheduler": lambda run: run.rl.lr_schedule == "cosine",
    "Reward discount rate": lambda run: run.rl.gamma,
    "GAE": lambda run: run.rl.gae_lambda,
    "Clip ratio": lambda run: run.rl.clip_ratio,
    "Interaction steps": lambda run: run.env.episode_steps,
    "Parallel environments": lambda run: run.rl.num_envs,
    "Rollout epochs": lambda run: run.rl.episodes_per_iteration / run.rl.num_envs,
    "Action prediction horizon": lambda run: run.policy.horizon,
    "Action replan horizon": lambda run: run.policy.replan,
    "Denoise steps": lambda run: run.policy.denoise_steps,
    "Noise level (Flow-SDE)": lambda run: run.rl.noise_level,
    "Max log-var (Flow-Noise)": lambda run: run.rl.noise_max_std,
    "Min log-var (Flow-Noise)": lambda run: run.rl.noise_min_std,
    "Entropy bonus (Flow-Noise)": lambda run: run.rl.entropy_coef,
    "SFT train steps": lambda run: run.sft.steps,
    "SFT batch size": lambda run: run.sft.batch_size,
    "Peak lr": lambda run: run.sft.lr,
    "Warm-up steps": lambda run: run.sft.warmup_steps,
    "Final lr, share of the peak": lambda run: run.sft.final_lr_fraction,
    "Moving average": lambda run: run.sft.ema_decay,
    "Gradient norm": lambda run: run.sft.max_grad_norm,
    "Relative actions": lambda run: run.policy.delta_actions,
    "State in the prompt": lambda run: run.policy.state_in_prompt,
}
"""A row of the tables → where the preset has it. What both methods have is read from Flow-SDE's parameters."""


class Cell(NamedTuple):
    """One number of a table. column: an experiment of the paper preset, or a small preset. ours: None where there is no
    such experiment. because: why ours is another."""

    table: str
    row: str
    column: str
    theirs: Any
    ours: Any
    because: str | None


def preset(name: str) -> Params:
    return load_preset(name)


def ours(params: Params, experiment: str, row: str) -> Any:
    """None where the preset has no such experiment or method."""
    method = "flow_noise" if "Flow-Noise" in row else "flow_sde"
    if experiment not in params.experiments or method not in params.methods:
        return None
    return OURS[row](resolve(params, experiment, method))


def of_paper(params: Params) -> Iterator[Cell]:
    """Every number of every table."""
    absent = {name: entry["because"] for entry in DATA["absent"] for name in entry["experiments"]}
    reasons = {
        (entry.get("table", table["title"]), entry["row"], name): entry["because"]
        for table in DATA["tables"]
        for entry in DATA["differs"]
        for name in entry["experiments"]
    }
    for table in DATA["tables"]:
        for row, values in table["rows"].items():
            for name, theirs in zip(table["columns"], values, strict=True):
                because = absent.get(name) or reasons.get((table["title"], row, name))
                yield Cell(table["title"], row, name, theirs, ours(params, name, row), because)


def of_small() -> Iterator[Cell]:
    """The first experiment of each small preset, beside the column of the nearest one of the paper's."""
    small = DATA["small"]
    theirs = {
        (row.replace("RL train steps", "Train epochs"), name): value
        for table in DATA["tables"]
        if re.match(r"Table 1[123]", table["title"])
        for row, values in table["rows"].items()
        for name, value in zip(table["columns"], values, strict=True)
    }
    rows = dict.fromkeys(row for row, _ in theirs if row in OURS and not row.startswith("SFT"))
    presets = {name: preset(name) for name in small["columns"]}
    for row in rows:
        for name, near in small["columns"].items():
            params = presets[name]
            found = ours(params, next(iter(params.experiments)), row)
            if found is not None and (row, near) in theirs:
                yield Cell(small["title"], row, name, theirs[row, near], found, small["because"].get(row))


def tables(cells: list[Cell]) -> str:
    """Markdown: the numbers that are equal, and theirs → ours where they are not; then the reasons."""
    text = []
    for title in dict.fromkeys(cell.table for cell in cells):
        here = {(cell.row, cell.column): cell for cell in cells if cell.table == title}
        columns = list(dict.fromkeys(column for _, column in here))
        text += [f"### {title}", "", f"| | {' | '.join(f'`{name}`' for name in columns)} |"]
        text.append(f"|---|{'---:|' * len(columns)}")
        for row in dict.fromkeys(row for row, _ in here):
            text.append(f"| {row} | {' | '.join(_shown(here.get((row, name))) for name in columns)} |")
        reasons: dict[str, dict[str, None]] = {}
        for cell in here.values():
            if cell.ours != cell.theirs:
                what = cell.row if cell.ours is not None else "all rows"
                reasons.setdefault(f"{what}: {cell.because}.", {})[f"`{cell.column}`"] = None
        lines = [f"* {', '.join(names)}, {why}" for why, names in reasons.items()]
        text += ["", *lines, ""] if lines else [""]
    return "\n".join(text)


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    theirs, mine = (
        "–" if value is None else str(value).lower() if isinstance(value, bool) else f"{value:g}"
        for value in (cell.theirs, cell.ours)
    )
    return theirs if cell.ours == cell.theirs else f"**{theirs} → {mine}**"


def written(page: str) -> str:
    """The page with the tables in their place."""
    begin, end = map(re.escape, MARKS)
    content = tables([*of_paper(preset("paper")), *of_small()])
    return re.sub(f"(?<={begin}).*(?={end})", lambda _: content, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

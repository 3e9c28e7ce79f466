"""What the code knows of each benchmark, as a table: ``python -m tests.docs.benchmarks`` writes it between the marks of
pirl_core/envs/<benchmark>/README.md and docs/benchmarks/<benchmark>.md."""

from pathlib import Path

from pirl_core import named
from pirl_core.envs.assets import ASSETS
from pirl_core.envs.conventions import conventions_of
from pirl_core.facts import facts_of
from pirl_core.report.pages import replaced
from tests import ROOT

NAMES = named.known(named.BENCHMARKS, "facts")
MARK = "facts"
MANY = 12
"""More tasks or names of numbers than these are counted, not listed."""


def pages(name: str) -> tuple[Path, Path]:
    return ROOT / "pirl_core/envs" / name / "README.md", ROOT / "docs/benchmarks" / f"{name}.md"


def _listed(values: tuple[str, ...]) -> str:
    return ", ".join(f"`{value}`" for value in values) or "none"


def _numbers(names: tuple[str, ...]) -> str:
    return f"{len(names)}" if len(names) > MANY else f"{len(names)}: {', '.join(names)}"


def render(name: str) -> str:
    """What stands between the marks."""
    facts = facts_of(name)
    tasks = tuple(facts.tasks)
    many = f"{len(tasks)}, such as {_listed(tasks[:2])}" if len(tasks) > MANY else f"{len(tasks)}: {_listed(tasks)}"
    bound = f"clipped to ± {facts.action_range:g}" if facts.action_range else "in units of their own, not clipped"
    conventions = conventions_of(name)
    parts = conventions.action if conventions else ()
    rows = {
        "tasks": many,
        "sets of tasks": _listed(tuple(facts.sets)),
        "groups in the report": _listed(facts.groups),
        "cameras": _listed(facts.cameras),
        "shifts": _listed(("none", *facts.shifts)),
        "state numbers": _numbers(facts.state),
        "with `env.object_state: true`": str(facts.object_state),
        "action numbers": f"{_numbers(facts.action)}; {bound}",
        **{f"of these, {part.name}": f"{part.dims}, `{part.format}`: {part.meaning}" for part in parts},
        "actions a second": str(facts.rate),
        "robot": facts.robot,
        "tasks that a GPU can simulate": str(len(facts.on_gpu)),
    }
    if facts.of is not None:
        own = ("state numbers", "with `env.object_state: true`", "action numbers", "actions a second", "robot")
        rows |= dict.fromkeys(own, "those of the environment")
        rows["tasks"] = f"all that are registered, such as {_listed(tasks)}"
        rows["cameras"] += ", and those that `env.keys` names"
    shared = "maniskill" if name in ("put_on_plate", "simpler") else name
    if shared in ASSETS and name != "maniskill":
        rows["licence of the assets"] = ASSETS[shared].terms
    return "\n".join(["| what | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]) + "\n"


def main() -> None:
    for name in NAMES:
        for page in pages(name):
            page.write_text(replaced(page.read_text(encoding="utf-8"), MARK, render(name)), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The paper's figures beside ours: each benchmark's stand in the module ``paper`` of its folder (``envs.figures``)."""

from types import ModuleType

from pirl_core import named
from pirl_core.envs.figures import AVERAGE, Chain, Rates, Row

LABELS = {"pi0": "π0", "pi05": "π0.5", "smolvla": "SmolVLA", "groot": "GR00T N1.5"}
"""How the paper writes models; any other is called what params call it."""


def published(benchmark: str) -> ModuleType | None:
    """The module with the benchmark's figures, or None where it has none."""
    found = named.exists(named.BENCHMARKS, benchmark, "paper")
    return named.part(named.BENCHMARKS, benchmark, "paper") if found else None


def paper_rate(benchmark: str, paper_model: str | None, method: str, split: str, group: str = AVERAGE) -> float | None:
    """The paper's success rate in [0, 1] for the same row and group of tasks, or None where it prints none."""
    figures = published(benchmark)
    rates: Rates = figures.RATES if figures else {}
    figure = rates.get(Row(paper_model or "", method, split, group))
    return None if figure is None else round(figure / 100, 6)


def paper_chain(benchmark: str, paper_model: str | None, method: str, split: str) -> Chain | None:
    """The paper's figures for sequences of subtasks, or None where it prints none."""
    chains: dict[tuple[str, str], Chain] = getattr(published(benchmark), "CHAINS", {})
    return chains.get((paper_model or "", method)) if split == "id" else None

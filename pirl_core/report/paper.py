"""The paper's figures beside ours: each benchmark's stand in the module ``paper`` of its folder (``envs.figures``)."""

from types import ModuleType

from pirl_core import named
from pirl_core.envs.figures import AVERAGE, Chain, Rates, Row
from pirl_core.errors import UserError
from pirl_core.params.errors import unknown
from pirl_core.params.file import resolve
from pirl_core.params.sections import Params

LABELS = {"pi0": "π0", "pi05": "π0.5", "smolvla": "SmolVLA", "groot": "GR00T N1.5"}
"""How the paper writes models; any other is called what params call it."""


def published(benchmark: str) -> ModuleType | None:
    """The module with the benchmark's figures, or None where it has none."""
    found = named.exists(named.BENCHMARKS, benchmark, "paper")
    return named.part(named.BENCHMARKS, benchmark, "paper") if found else None


def check_models(params: Params) -> None:
    """Raises UserError for a ``paper_model`` that is none of the paper's, and has no figure for the benchmark."""
    for name, entry in params.experiments.items():
        figures = published(resolve(params, name).env.benchmark)
        models = {*LABELS, *(row.model for row in (figures.RATES if figures else ()))}
        if entry.paper_model not in (None, *models):
            known = unknown(str(entry.paper_model), sorted(models))
            raise UserError(
                f"experiments.{name}.paper_model: {known}; or null, for a model that is none of the paper's"
            )


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

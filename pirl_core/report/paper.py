"""The paper's figures as data, in per cent as printed (arXiv:2510.25889, Table 6: MetaWorld-MT50, all 50 tasks).

The paper's average is the unweighted mean of the four difficulty groups, not of the 50 tasks:
(77.9 + 51.8 + 53.3 + 20.0) / 4 = 50.8. Our row has `group_mean` for that comparison. For ML45's held-out tasks the
paper draws curves (Fig. 5) and prints no number, so an OOD row has no figure beside it. GR00T was run on LIBERO only
(Appendix H).
"""

from typing import NamedTuple

NAMES = {"pi0": "π0", "pi05": "π0.5", "smolvla": "SmolVLA", "groot": "GR00T N1.5"}


class Figures(NamedTuple):
    """Success in per cent by difficulty, and the printed average."""

    easy: float
    medium: float
    hard: float
    very_hard: float
    average: float


METAWORLD: dict[str, dict[str, Figures]] = {
    "pi0": {
        "sft": Figures(77.9, 51.8, 53.3, 20.0, 50.8),
        "flow_sde": Figures(92.1, 74.6, 61.7, 84.0, 78.1),
        "flow_noise": Figures(91.1, 81.8, 78.3, 92.0, 85.8),
    },
    "pi05": {
        "sft": Figures(68.2, 37.3, 41.7, 28.0, 43.8),
        "flow_sde": Figures(86.4, 55.5, 75.0, 66.0, 70.7),
        "flow_noise": Figures(86.8, 58.1, 63.3, 56.0, 66.1),
    },
    "smolvla": {"sft": Figures(87.1, 51.8, 70.0, 64.0, 68.2)},
}


def paper_rate(
    benchmark: str, paper_model: str | None, method: str, split: str, group: str = "average"
) -> float | None:
    """The paper's success rate in [0, 1] for the same row, or None where it prints none."""
    if benchmark != "metaworld" or paper_model is None or split != "id":
        return None
    figures = METAWORLD.get(paper_model, {}).get(method)
    return None if figures is None else round(getattr(figures, group) / 100, 6)

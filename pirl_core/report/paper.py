"""The paper's figures as data, in per cent as printed (arXiv:2510.25889): Table 6, MetaWorld-MT50, all 50 tasks, and
Table 7, ManiSkill put-on-plate.

Table 6: the paper's average is the unweighted mean of the four difficulty groups, not of the 50 tasks:
(77.9 + 51.8 + 53.3 + 20.0) / 4 = 50.8. Our row has `group_mean` for that comparison. For ML45's held-out tasks the
paper draws curves (Fig. 5) and prints no number, so an OOD row has no figure beside it. GR00T was run on LIBERO only
(Appendix H).

CALVIN (Table 5): in scene D, the policies fine-tuned by SFT on scenes A, B and C. An episode's success is Len-5.
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

_PUT_ON_PLATE = """
id                    38.4 78.8 77.8  40.1 90.9 89.7
ood:instruct          30.1 64.6 66.5  46.6 77.0 85.7
ood:vision_image      38.3 68.8 71.7  46.2 78.8 83.1
ood:vision_texture03  35.1 66.0 66.8  36.7 69.6 75.0
ood:vision_texture05  31.0 55.8 60.5  32.7 58.0 62.2
ood:vision_whole03    35.4 62.4 69.0  40.1 69.6 71.6
ood:vision_whole05    28.5 49.0 53.9  30.7 55.0 57.0
ood:multi_carrot_test   7.8 28.2 23.0  16.7 36.8 38.2
ood:multi_carrot_train 12.5 36.5 31.8  28.2 49.5 50.1
ood:multi_plate_test    5.0 16.4 18.3  11.8 29.4 28.3
ood:multi_plate_train   7.3 20.5 19.6   9.7 22.3 25.4
ood:position_change_to  9.6 17.4 10.9  13.5 36.2 54.7
ood:position          16.9 45.6 37.5  31.2 54.5 55.0
"""
PUT_ON_PLATE: dict[tuple[str, str, str], float] = {
    (model, method, line.split()[0]): float(figure)
    for line in _PUT_ON_PLATE.strip().splitlines()
    for (model, method), figure in zip(
        [(model, method) for model in ("pi0", "pi05") for method in ("sft", "flow_sde", "flow_noise")],
        line.split()[1:],
        strict=True,
    )
}
"""By model, method and split; an evaluation split named ``ood_<shift>`` is compared with the set of that shift."""


class Chain(NamedTuple):
    """Per cent of sequences with at least 1 to 5 subtasks solved, and the printed average number of them."""

    reached: tuple[float, float, float, float, float]
    average: float


CALVIN: dict[str, dict[str, Chain]] = {
    "pi0": {
        "sft": Chain((94.7, 84.9, 74.3, 65.2, 57.5), 3.766),
        "flow_sde": Chain((96.4, 88.0, 77.5, 70.8, 61.7), 3.944),
        "flow_noise": Chain((96.9, 88.8, 78.0, 68.3, 59.9), 3.919),
    },
    "pi05": {
        "sft": Chain((92.7, 84.3, 76.7, 68.8, 61.3), 3.838),
        "flow_sde": Chain((99.7, 98.2, 95.8, 91.0, 87.0), 4.717),
        "flow_noise": Chain((99.6, 97.6, 93.9, 89.6, 84.5), 4.652),
    },
}


def paper_rate(
    benchmark: str, paper_model: str | None, method: str, split: str, group: str = "average"
) -> float | None:
    """The paper's success rate in [0, 1] for the same row, or None where it prints none."""
    if benchmark == "put_on_plate" and group in ("average", "all"):
        figure = PUT_ON_PLATE.get((paper_model or "", method, split))
        return None if figure is None else round(figure / 100, 6)
    chain = paper_chain(benchmark, paper_model, method, split)
    if chain is not None:
        return round(chain.reached[-1] / 100, 6) if group in ("average", "sequence") else None
    if benchmark != "metaworld" or paper_model is None or split != "id":
        return None
    figures = METAWORLD.get(paper_model, {}).get(method)
    return None if figures is None else round(getattr(figures, group) / 100, 6)


def paper_chain(benchmark: str, paper_model: str | None, method: str, split: str) -> Chain | None:
    """The paper's figures for sequences of subtasks, or None where it prints none."""
    if benchmark != "calvin" or paper_model is None or split != "id":
        return None
    return CALVIN.get(paper_model, {}).get(method)

"""The paper's figures as data, in per cent as printed (arXiv:2510.25889): Table 3 and 10, LIBERO; Table 5, CALVIN;
Table 6, MetaWorld-MT50; Table 7, ManiSkill put-on-plate; Table 8, SIMPLER.

The printed average is the unweighted mean of the groups: for MetaWorld of the four difficulties, not of the 50 tasks:
(77.9 + 51.8 + 53.3 + 20.0) / 4 = 50.8. Our row has `group_mean` for that comparison. For ML45's held-out tasks the
paper draws curves (Fig. 5) and prints no number, so an OOD row has no figure beside it. GR00T was run on LIBERO only
(Appendix H). Table 8 prints one figure for RL and no method's name: it stands for both.

CALVIN (Table 5): in scene D, the policies fine-tuned by SFT on scenes A, B and C. An episode's success is Len-5.
"""

from typing import NamedTuple

from pirl_core.errors import UserError
from pirl_core.params.errors import unknown
from pirl_core.params.sections import Params

NAMES = {"pi0": "π0", "pi05": "π0.5", "smolvla": "SmolVLA", "groot": "GR00T N1.5"}
"""The models of its tables' rows, by what ``paper_model`` calls them."""

_GROUPS = {
    "metaworld": ("easy", "medium", "hard", "very_hard", "average"),
    "libero": ("libero_spatial", "libero_object", "libero_goal", "libero_10", "average"),
    "simpler": ("carrot", "eggplant", "spoon", "cube", "average"),
}
_BY_GROUP = """
metaworld pi0     sft         77.9  51.8  53.3  20.0  50.8
metaworld pi0     flow_sde    92.1  74.6  61.7  84.0  78.1
metaworld pi0     flow_noise  91.1  81.8  78.3  92.0  85.8
metaworld pi05    sft         68.2  37.3  41.7  28.0  43.8
metaworld pi05    flow_sde    86.4  55.5  75.0  66.0  70.7
metaworld pi05    flow_noise  86.8  58.1  63.3  56.0  66.1
metaworld smolvla sft         87.1  51.8  70.0  64.0  68.2
libero    pi0     sft         65.3  64.4  49.8  51.2  57.6
libero    pi0     flow_sde    98.4  99.4  96.2  90.2  96.1
libero    pi0     flow_noise  99.0  99.2  98.2  93.8  97.6
libero    pi05    sft         84.6  95.4  84.6  43.9  77.1
libero    pi05    flow_sde    99.6 100.0  98.8  93.0  97.9
libero    pi05    flow_noise  99.6 100.0  99.6  94.0  98.3
libero    groot   sft         41.4  58.6  48.2  61.9  52.5
libero    groot   flow_sde    92.5  96.2  84.3  86.6  89.9
simpler   pi0     sft         82.7  87.5  61.7  37.1  67.2
simpler   pi0     flow_sde    95.7  96.7  91.6  63.0  86.7
simpler   pi0     flow_noise  95.7  96.7  91.6  63.0  86.7
simpler   pi05    sft         70.6  91.9  43.5  31.0  59.2
simpler   pi05    flow_sde    82.0  98.2  82.8  53.3  79.1
simpler   pi05    flow_noise  82.0  98.2  82.8  53.3  79.1
"""
BY_GROUP: dict[tuple[str, str, str], dict[str, float]] = {
    (line[0], line[1], line[2]): dict(zip(_GROUPS[line[0]], map(float, line[3:]), strict=True))
    for line in map(str.split, _BY_GROUP.strip().splitlines())
}
"""By benchmark, model and method: success in per cent by group of tasks, and the printed average."""

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


def check_models(params: Params) -> None:
    """Raises UserError for a ``paper_model`` that has no row in the paper's tables."""
    for name, entry in params.experiments.items():
        if entry.paper_model not in (None, *NAMES):
            known = unknown(str(entry.paper_model), NAMES)
            raise UserError(
                f"experiments.{name}.paper_model: {known}; or null, for a model that is none of the paper's"
            )


def paper_rate(
    benchmark: str, paper_model: str | None, method: str, split: str, group: str = "average"
) -> float | None:
    """The paper's success rate in [0, 1] for the same row and group of tasks, or None where it prints none."""
    model = paper_model or ""
    chain = paper_chain(benchmark, paper_model, method, split)
    if chain is not None:
        figure = chain.reached[-1] if group in ("average", "sequence") else None
    elif benchmark == "put_on_plate":
        figure = PUT_ON_PLATE.get((model, method, split)) if group in ("average", "all") else None
    else:
        figure = BY_GROUP.get((benchmark, model, method), {}).get(group) if split == "id" else None
    return None if figure is None else round(figure / 100, 6)


def paper_chain(benchmark: str, paper_model: str | None, method: str, split: str) -> Chain | None:
    """The paper's figures for sequences of subtasks, or None where it prints none."""
    if benchmark != "calvin" or paper_model is None or split != "id":
        return None
    return CALVIN.get(paper_model, {}).get(method)

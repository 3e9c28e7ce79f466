"""The paper's figures for put-on-plate in ManiSkill (arXiv 2510.25889, Table 7).

A line has a split, then SFT, Flow-SDE and Flow-Noise, first of π0, then of π0.5. A split of ours named
``ood_<shift>`` stands beside the set of that shift.
"""

from itertools import product

from pirl_core.envs.figures import AVERAGE, Rates, Row

NOTE = "Paper: {} on put-on-plate with all its objects and tables (Table 7), each OOD set beside the split of its name."
TABLE = """
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
RATES: Rates = {
    Row(model, method, split, group): float(figure)
    for split, *figures in map(str.split, TABLE.strip().splitlines())
    for (model, method), figure in zip(
        product(("pi0", "pi05"), ("sft", "flow_sde", "flow_noise")), figures, strict=True
    )
    for group in ("all", AVERAGE)  # its tasks are of one group
}

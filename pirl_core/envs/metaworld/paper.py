"""The paper's figures for MetaWorld-MT50 (arXiv 2510.25889, Table 6).

The printed average is the unweighted mean of the four difficulties, not of the 50 tasks:
(77.9 + 51.8 + 53.3 + 20.0) / 4 = 50.8. Our row has `group_mean` for that comparison. For ML45's held-out tasks the
paper draws curves (Fig. 5) and prints no number, so an OOD row has no figure beside it.
"""

from pirl_core.envs.figures import AVERAGE, by_group

NOTE = (
    "Paper: {} on all tasks of MetaWorld-MT50 that are of the same difficulty (Table 6); where there are several, the "
    "unweighted mean of the four difficulties. It prints no number for OOD."
)
RATES = by_group(
    """
    pi0     sft         77.9  51.8  53.3  20.0  50.8
    pi0     flow_sde    92.1  74.6  61.7  84.0  78.1
    pi0     flow_noise  91.1  81.8  78.3  92.0  85.8
    pi05    sft         68.2  37.3  41.7  28.0  43.8
    pi05    flow_sde    86.4  55.5  75.0  66.0  70.7
    pi05    flow_noise  86.8  58.1  63.3  56.0  66.1
    smolvla sft         87.1  51.8  70.0  64.0  68.2
    """,
    ("easy", "medium", "hard", "very_hard", AVERAGE),
)

"""The paper's figures for SIMPLER (arXiv 2510.25889, Table 8).

It prints one figure for RL and no method's name: it stands for both. The average is the mean of the four tasks.
"""

from pirl_core.envs.figures import AVERAGE, by_group

NOTE = (
    "Paper: {} on the same task (Table 8, which names no method of RL); where there are several, the mean of its four."
)
RATES = by_group(
    """
    pi0     sft         82.7  87.5  61.7  37.1  67.2
    pi0     flow_sde    95.7  96.7  91.6  63.0  86.7
    pi0     flow_noise  95.7  96.7  91.6  63.0  86.7
    pi05    sft         70.6  91.9  43.5  31.0  59.2
    pi05    flow_sde    82.0  98.2  82.8  53.3  79.1
    pi05    flow_noise  82.0  98.2  82.8  53.3  79.1
    """,
    ("carrot", "eggplant", "spoon", "cube", AVERAGE),
)

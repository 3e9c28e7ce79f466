"""The paper's figures for LIBERO (arXiv 2510.25889, Table 3; GR00T N1.5: Table 10).

The printed average is the unweighted mean of the four suites.
"""

from pirl_core.envs.figures import AVERAGE, by_group

NOTE = (
    "Paper: {} on the 500 stored states of the same suite (Table 3, GR00T Table 10); where there are several, the mean "
    "of spatial, object, goal and Long."
)
RATES = by_group(
    """
    pi0     sft         65.3  64.4  49.8  51.2  57.6
    pi0     flow_sde    98.4  99.4  96.2  90.2  96.1
    pi0     flow_noise  99.0  99.2  98.2  93.8  97.6
    pi05    sft         84.6  95.4  84.6  43.9  77.1
    pi05    flow_sde    99.6 100.0  98.8  93.0  97.9
    pi05    flow_noise  99.6 100.0  99.6  94.0  98.3
    groot   sft         41.4  58.6  48.2  61.9  52.5
    groot   flow_sde    92.5  96.2  84.3  86.6  89.9
    """,
    ("libero_spatial", "libero_object", "libero_goal", "libero_10", AVERAGE),
)

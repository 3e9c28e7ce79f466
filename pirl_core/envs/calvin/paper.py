"""The paper's figures for CALVIN (arXiv 2510.25889, Table 5): in scene D, of policies whose SFT was on A, B and C.

An episode's success is Len-5.
"""

from pirl_core.envs.figures import AVERAGE, Chain, Rates, Row

NOTE = "Paper: {} on CALVIN's 1,000 sequences in scene D (Table 5); success is Len-5."
CHAINS = {
    ("pi0", "sft"): Chain((94.7, 84.9, 74.3, 65.2, 57.5), 3.766),
    ("pi0", "flow_sde"): Chain((96.4, 88.0, 77.5, 70.8, 61.7), 3.944),
    ("pi0", "flow_noise"): Chain((96.9, 88.8, 78.0, 68.3, 59.9), 3.919),
    ("pi05", "sft"): Chain((92.7, 84.3, 76.7, 68.8, 61.3), 3.838),
    ("pi05", "flow_sde"): Chain((99.7, 98.2, 95.8, 91.0, 87.0), 4.717),
    ("pi05", "flow_noise"): Chain((99.6, 97.6, 93.9, 89.6, 84.5), 4.652),
}
RATES: Rates = {
    Row(model, method, "id", group): chain.reached[-1]
    for (model, method), chain in CHAINS.items()
    for group in ("sequence", AVERAGE)
}

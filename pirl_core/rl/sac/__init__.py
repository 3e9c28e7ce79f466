"""SAC Flow (arXiv 2509.25756): off-policy RL of a flow policy through its own chain."""

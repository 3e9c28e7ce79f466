"""Risk-sensitive RL in tabular POMDPs with hindsight observation (arXiv 2402.18149)."""

"""The report of risk-sensitive RL: regrets in place of rates."""

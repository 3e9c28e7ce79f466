"""CALVIN (Mees et al. 2022, arXiv:2112.03227): four scenes of a table with drawer, sliding door, lights and blocks."""

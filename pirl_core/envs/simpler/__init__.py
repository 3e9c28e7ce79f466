"""SIMPLER's four WidowX tasks, on mani_skill."""

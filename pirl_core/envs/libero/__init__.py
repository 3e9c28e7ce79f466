"""LIBERO: five suites of a Panda arm, on robosuite."""

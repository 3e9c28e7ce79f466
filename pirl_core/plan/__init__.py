"""How fast RL will be on machines that are not there: a model of an iteration's events, fed with measured costs."""

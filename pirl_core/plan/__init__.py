"""How fast an iteration of RL will be on machines that are not there: a model of its events, fed with measured costs."""

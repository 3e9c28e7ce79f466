"""π0.5: the network of π0, its time in the expert's norms and no token for the state."""

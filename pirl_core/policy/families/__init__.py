"""One folder a model family: its network, and its published weights' names."""

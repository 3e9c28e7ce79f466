"""Key maps between the published checkpoints and our policies, one module per family."""

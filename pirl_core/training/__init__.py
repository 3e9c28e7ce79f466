"""What SFT and RL share: the learner, its ranks and their sharding, checkpoints to resume from, the metric log."""

"""Online RL: rollouts, advantages, losses, and the PPO/GRPO loop."""

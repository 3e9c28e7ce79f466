"""pirl_core: online RL fine-tuning of flow-based vision-language-action policies.

flow       path, noise rules, denoising chain: the mathematics of Eq. 3 to 12
policy     backbone, critic, noise net; one policy folder on disk
envs       simulators behind one vector environment that takes action chunks
data       demonstrations, few-shot subsets, LeRobot v3 files
rl         rollouts, advantages, losses, the PPO/GRPO loop
risk       risk-sensitive RL in tabular worlds
stages     one module per DVC stage: curate, sft, rl, evaluate, risk, report
"""

__version__ = "0.1.0"

"""PPO's forward and flow matching's in one: RL-Co's second stage (arXiv 2602.12628) adds the losses of both."""

from typing import Any

from torch import Tensor, nn

from pirl_core.policy.flow_policy import Evaluation, FlowPolicy, Noisy, velocity_at
from pirl_core.policy.lora import EncodingPolicy


class AnchoredPolicy(nn.Module):
    """A policy as RL trains it, which also answers flow matching: DDP wants one forward a backward."""

    def __init__(self, policy: FlowPolicy | EncodingPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, point: Noisy, *decisions: Any) -> tuple[Evaluation, Tensor]:
        """The velocity (B, H, D) at ``point`` beside what ``policy`` makes of recorded decisions."""
        result: Evaluation = self.policy(*decisions)
        return result, velocity_at(self.policy.backbone, point)

"""Which published layout a policy can be exported to: the one place that knows the families."""

from typing import TYPE_CHECKING

from pirl_core.errors import UserError

if TYPE_CHECKING:
    from pirl_core.checkpoints.export import Layout
    from pirl_core.policy.flow_policy import FlowPolicy

TARGETS = ("openpi", "lerobot")


def layout_of(policy: "FlowPolicy", target: str) -> "Layout":
    """Raises UserError where the policy's family has no map to ``target``."""
    family = type(policy.backbone).__name__
    raise UserError(f"--to {target}: no map from {family} to this layout; its own policy folder can be pushed as it is")

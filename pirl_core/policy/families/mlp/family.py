"""What ``policy.backbone: mlp`` stands for: see ``policy.backbone``."""

from torch import nn

from pirl_core.errors import UserError
from pirl_core.params.sizes import Size
from pirl_core.policy.context import DataSizes
from pirl_core.policy.families.mlp.network import Mlp, MlpShape, NoiseMlp, ResidualMlp, ResidualVelocity

Network = Mlp
Shape = MlpShape
PROMPT = "words"
WIDTHS: dict[str, int] = {"nano": 32, "tiny": 256, "S": 512, "M": 1024, "L": 2048}
"""S is the network of ReinFlow's locomotion tasks (arXiv 2505.22094, released configurations)."""
CRITIC_WIDTH = 256


def shape(size: Size, data: DataSizes) -> MlpShape:
    return sized("mlp", WIDTHS, size, data)


def sized(kind: str, widths: dict[str, int], size: Size, data: DataSizes) -> MlpShape:
    """Raises UserError for pictures, which it does not see, and for size full, since it has no published weights."""
    if data.cameras:
        raise UserError(f"policy.backbone = {kind} sees no pictures; set env.cameras: [] and env.object_state: true")
    if size not in widths:
        raise UserError(f"policy.size = {size}: {kind} has no published weights; give one of {', '.join(widths)}")
    return MlpShape(**data._asdict(), width=widths[size], kind=kind)


def published_sizes(cameras: int, horizon: int) -> DataSizes:
    raise UserError(f"policy.size = full: without published weights; give one of {', '.join(WIDTHS)}")


def cell(shape: MlpShape) -> nn.Module:
    return ResidualVelocity(shape)


def critic(shape: MlpShape) -> nn.Module:
    """V(o) of the normalised state: (B, S) → (B, 1)."""
    return ResidualMlp(shape.state_dim, CRITIC_WIDTH, 1, nn.Mish())


def noise_net(shape: MlpShape) -> nn.Module:
    return NoiseMlp(shape)

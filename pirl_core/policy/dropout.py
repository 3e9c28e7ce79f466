"""Dropout in RL (π_RL App. H.1, Eq. 17 and 18): that of the expert, since what the VLM made is computed once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from pirl_core.errors import UserError
from pirl_core.policy.backbone import Backbone


def expert_dropout(backbone: Backbone) -> list[nn.Dropout]:
    """What drops out between context and velocity. Raises UserError where a network has nothing of the kind."""
    vlm = {module for top in backbone.vlm_modules for module in top.modules()}
    found = [m for m in backbone.modules() if isinstance(m, nn.Dropout) and m.p > 0 and m not in vlm]
    if not found:
        raise UserError(
            f"rl.dropout = true: the expert of {backbone.shape.family} has no dropout to keep; set it to false"
        )
    return found


def drop(modules: Sequence[nn.Dropout], on: bool) -> None:
    for module in modules:
        module.train(on)


@contextmanager
def still(modules: Sequence[nn.Dropout]) -> Iterator[None]:
    """Without dropout: who validates sees the policy that evaluation will."""
    drop(modules, False)
    try:
        yield
    finally:
        drop(modules, True)

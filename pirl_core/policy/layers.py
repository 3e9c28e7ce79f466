"""How a backbone runs its layers: plainly, compiled, or with their activations computed again in the backward pass.

Layers are compiled one by one, not the network as a whole: equal layers share one compilation, and under DDP gradients
leave as soon as their layer has them. All sizes are dynamic, so neither batch nor prompt length compiles anew.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import torch.fx.experimental._config
from torch import nn
from torch.utils.checkpoint import checkpoint

from pirl_core.errors import UserError, first_line
from pirl_core.training import sharding

Run = Callable[..., Any]
"""(layer, its arguments) → what the layer gives."""
VARIANTS = 64
"""Of one layer's code: with gradient or without, VLM or expert, batch of one or more, precision."""


def plain(layer: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return layer(*arguments, **named)


def recomputed(run: Run, layer: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Keep the layer's inputs alone for the backward pass, which computes the rest again."""
    if not torch.is_grad_enabled():
        return run(layer, *arguments, **named)
    return checkpoint(run, layer, *arguments, use_reentrant=False, **named)


def compiled(layer: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """The compilation is that of the layer's forward pass: all layers that have the same share it."""
    if isinstance(layer, nn.Module):
        bound: Any = layer.forward
        return _compiled(bound.__func__)(layer, *arguments, **named)
    return _compiled(layer)(*arguments, **named)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    faster: Callable[..., Any] = torch.compile(function, dynamic=True)
    return faster


def way_to_run(recompute: bool, compile_layers: bool, device: torch.device) -> Run:
    """What ``activation_checkpointing`` and ``compile`` of params.yaml ask for.

    Raises UserError where the machine cannot compile for ``device``.
    """
    if compile_layers:
        _require_compiler(device)
    run = compiled if compile_layers else plain
    return partial(recomputed, run) if recompute else run


def _require_compiler(device: torch.device) -> None:
    if sharding.wanted():
        raise UserError(
            "compile: true goes past the hooks by which FSDP gathers layers; set false, or PIRL_SHARDING=ddp"
        )
    # DDP's own splitting of a graph is for a network that is compiled as one.
    torch._dynamo.config.optimize_ddp = False
    torch._dynamo.config.recompile_limit = VARIANTS
    # A batch that happens to be as large as a head is wide is not always so.
    torch.fx.experimental._config.use_duck_shape = False
    try:
        torch.compile(_probe)(torch.ones(3, device=device))
    except Exception as error:  # a compiler can be missing in many ways
        raise UserError(
            f"compile = true: torch.compile does not work here ({first_line(error)}); install a C++ compiler (g++), on "
            "a GPU Triton too, or set compile: false"
        ) from None


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1

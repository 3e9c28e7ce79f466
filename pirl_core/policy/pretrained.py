"""Published weights and tokenizers into a policy."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pirl_core.checkpoints.read import Rename, detect_layout, load_weights, open_weights
from pirl_core.checkpoints.source import Checkpoint, find_checkpoint
from pirl_core.errors import UserError
from pirl_core.policy.backbone import Backbone, Family, family_of
from pirl_core.policy.layouts import groot, pi0, smolvla


class Layout(NamedTuple):
    """Whose weights, its key map, and what to read a tied tensor from where its own key is not there."""

    family: Family
    names: Rename
    ties: Mapping[str, str]


LAYOUTS = {
    "openpi_pi0": Layout("pi0", pi0.openpi_names, pi0.OPENPI_TIES),
    "openpi_pi05": Layout("pi05", pi0.openpi_names, pi0.OPENPI_TIES),
    "lerobot_pi0": Layout("pi0", pi0.lerobot_names, pi0.LEROBOT_TIES),
    "lerobot_pi05": Layout("pi05", pi0.lerobot_names, pi0.LEROBOT_TIES),
    "lerobot_smolvla": Layout("smolvla", smolvla.lerobot_names, {}),
    "isaac_groot_n15": Layout("groot", groot.isaac_names, groot.ISAAC_TIES),
    "lerobot_groot_n15": Layout("groot", groot.lerobot_names, groot.LEROBOT_TIES),
}


def load_pretrained(backbone: Backbone, source: str, revision: str | None) -> Checkpoint:
    """Fill ``backbone`` strictly, its parameters may be on torch's meta device. Returns where the weights came from.

    Raises UserError where the source is not there, holds another model, or is not whole.
    """
    found = find_checkpoint(source, revision)
    weights = open_weights(found.folder)
    family, layout = family_of(backbone.shape), detect_layout(weights.shapes)
    known = LAYOUTS.get(layout)
    if known is None or known.family != family:
        raise UserError(f"policy.pretrained = {source}: holds {layout}, but policy.backbone is {family}; change either")
    load_weights(backbone, weights, known.names, known.ties)
    return found


def origin_of(found: Checkpoint) -> dict[str, Any]:
    """To be recorded beside what was trained from it."""
    return {"folder": None if found.repo else str(found.folder), "repo": found.repo, "commit": found.commit}

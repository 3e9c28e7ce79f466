"""Published weights and tokenizers into a policy."""

from collections.abc import Mapping
from typing import Any

from pirl_core.checkpoints.read import Rename, detect_layout, load_weights, open_weights
from pirl_core.checkpoints.source import Checkpoint, find_checkpoint
from pirl_core.errors import UserError
from pirl_core.policy.backbone import Backbone, Family, family_of
from pirl_core.policy.layouts import groot, pi0, smolvla

# Of each layout: whose weights, its key map, and what to read a tied tensor from where its own key is not there.
LAYOUTS: dict[str, tuple[Family, Rename, Mapping[str, str]]] = {
    "openpi_pi0": ("pi0", pi0.openpi_names, pi0.OPENPI_TIES),
    "openpi_pi05": ("pi05", pi0.openpi_names, pi0.OPENPI_TIES),
    "lerobot_pi0": ("pi0", pi0.lerobot_names, pi0.LEROBOT_TIES),
    "lerobot_pi05": ("pi05", pi0.lerobot_names, pi0.LEROBOT_TIES),
    "lerobot_smolvla": ("smolvla", smolvla.lerobot_names, {}),
    "isaac_groot_n15": ("groot", groot.isaac_names, groot.ISAAC_TIES),
    "lerobot_groot_n15": ("groot", groot.lerobot_names, groot.LEROBOT_TIES),
}


def load_pretrained(backbone: Backbone, source: str, revision: str | None) -> Checkpoint:
    """Fill ``backbone`` strictly, its parameters may be on torch's meta device. Returns where the weights came from.

    Raises UserError where the source is not there, holds another model, or is not whole.
    """
    found = find_checkpoint(source, revision)
    weights = open_weights(found.folder)
    family, layout = family_of(backbone.shape), detect_layout(weights.shapes)
    theirs, names, ties = LAYOUTS.get(layout, (None, None, {}))
    if names is None or theirs != family:
        raise UserError(f"policy.pretrained = {source}: holds {layout}, but policy.backbone is {family}; change either")

    def rename(key: str) -> str | None:
        """A strange key maps to itself, so that the strict load lists all of them as unexpected."""
        try:
            return names(key)
        except UserError:
            return key

    load_weights(backbone, weights, rename, ties)
    return found


def origin_of(found: Checkpoint) -> dict[str, Any]:
    """To be recorded beside what was trained from it."""
    return {"folder": None if found.repo else str(found.folder), "repo": found.repo, "commit": found.commit}

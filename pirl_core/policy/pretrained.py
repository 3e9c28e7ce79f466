"""Published weights and tokenizers into a policy."""

from collections.abc import Mapping
from typing import Any

from pirl_core.checkpoints.read import Rename, detect_layout, load_weights, open_weights
from pirl_core.checkpoints.source import Checkpoint, find_checkpoint
from pirl_core.errors import UserError
from pirl_core.policy.backbone import Backbone, family_of
from pirl_core.policy.layouts import groot, pi0, smolvla

KNOWN = {"pi0": ("openpi_pi0", "lerobot_pi0"), "pi05": ("openpi_pi05", "lerobot_pi05"), "smolvla": ("smolvla",),
         "groot": ("groot_n15",)}  # fmt: skip


def load_pretrained(backbone: Backbone, source: str, revision: str | None) -> Checkpoint:
    """Fill ``backbone`` strictly, its parameters may be on torch's meta device. Returns where the weights came from.

    Raises UserError where the source is not there, holds another model, or is not whole.
    """
    found = find_checkpoint(source, revision)
    weights = open_weights(found.folder)
    family, layout = family_of(backbone.shape), detect_layout(weights.shapes)
    if layout not in KNOWN[family]:
        raise UserError(f"policy.pretrained = {source}: holds {layout}, but policy.backbone is {family}; change either")
    rename, ties = names(layout)
    load_weights(backbone, weights, rename, ties)
    return found


def names(layout: str) -> tuple[Rename, Mapping[str, str]]:
    """The key map of a layout, and what to read a tied tensor from where its own key is not there.

    A strange key maps to itself, so that the strict load lists all of them as unexpected.
    """
    prefix = pi0.LEROBOT if layout.startswith("lerobot") else ""
    of_layout = {"smolvla": smolvla.lerobot_names, "groot_n15": groot.isaac_names}.get(layout, pi0.lerobot_names)
    tied = prefix + pi0.TIED

    def rename(key: str) -> str | None:
        # The embedding may be there twice; as itself it wins.
        if key == tied:
            return None
        try:
            return of_layout(key)
        except UserError:
            return key

    return rename, {pi0.openpi_names(pi0.TIED) or "": tied}


def origin_of(found: Checkpoint) -> dict[str, Any]:
    """To be recorded beside what was trained from it."""
    return {"folder": None if found.repo else str(found.folder), "repo": found.repo, "commit": found.commit}

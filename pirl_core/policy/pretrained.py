"""Published weights and tokenizers into a policy."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pirl_core.checkpoints.read import Rename, detect_layout, load_weights, open_weights
from pirl_core.checkpoints.source import Checkpoint
from pirl_core.checkpoints.statistics import Published, Stats
from pirl_core.errors import UserError
from pirl_core.policy.backbone import Backbone, Family, family_of
from pirl_core.policy.layouts import groot, pi0, smolvla
from pirl_core.policy.normalize import Affine, Normalization, published
from pirl_core.policy.sizes import Mode


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


def load_pretrained(backbone: Backbone, found: Checkpoint) -> None:
    """Fill ``backbone`` strictly, its parameters may be on torch's meta device.

    Raises UserError where the checkpoint holds another model, or is not whole.
    """
    weights = open_weights(found.folder)
    family, layout = family_of(backbone.shape), detect_layout(weights.shapes)
    known = LAYOUTS.get(layout)
    if known is None or known.family != family:
        raise UserError(
            f"policy.pretrained = {found.repo or found.folder}: holds {layout}, but policy.backbone is {family}; "
            "change either"
        )
    load_weights(backbone, weights, known.names, known.ties)


def pretrained_normalization(
    found: Published, mode: Mode, delta: int, state_numbers: int, action_numbers: int
) -> Normalization:
    """What the weights were trained with. Raises UserError where ``mode`` is another, a statistic is missing, or they
    are not of so many numbers."""
    state = _affine(found, "state", found.state, mode, state_numbers)
    return Normalization(state, _affine(found, "action", found.action, mode, action_numbers), delta)


def _affine(found: Published, part: str, stats: Stats, mode: Mode, numbers: int) -> Affine:
    used = found.used.get(part, mode)
    if used != mode:
        raise UserError(f"policy.normalization = {mode}: {found.path} has {used} for the {part}; they must agree")
    try:
        affine = published(stats, mode, found.epsilon)
    except KeyError as error:
        raise UserError(
            f"policy.normalization = {mode}: {found.path} has no {error} of the {part}; choose another or "
            "set policy.normalization_from: data"
        ) from None
    except ValueError:
        raise UserError(
            f"{found.path}: the {part}'s statistics are of different lengths; download them again"
        ) from None
    # openpi's older ones are padded with zeros, as its networks' numbers are.
    padding = [values[numbers:] for values in stats.values()]
    if len(affine.center) < numbers or any(any(values) for values in padding):
        raise UserError(
            f"{found.path}: statistics of {len(affine.center)} {part} numbers, the data have {numbers}; these weights "
            "were trained for another robot or task"
        )
    return Affine(affine.center[:numbers], affine.scale[:numbers])


def origin_of(found: Checkpoint, family: Family) -> dict[str, Any]:
    """To be recorded beside what was trained from it."""
    folder = None if found.repo else str(found.folder)
    return {"family": family, "folder": folder, "repo": found.repo, "commit": found.commit}

"""Published weights and tokenizers into a policy."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pirl_core import named
from pirl_core.checkpoints.read import Rename, detect_layout, load_weights, open_weights
from pirl_core.checkpoints.relative import agreement, mismatch, relative_numbers
from pirl_core.checkpoints.source import Checkpoint
from pirl_core.checkpoints.statistics import Published, Stats, first_fault
from pirl_core.errors import UserError
from pirl_core.params.sizes import Mode
from pirl_core.policy.backbone import Backbone
from pirl_core.policy.layouts import BESIDE, beside
from pirl_core.policy.normalize import USED, Affine, Normalization, published


def load_pretrained(backbone: Backbone, found: Checkpoint) -> list[str]:
    """Fill ``backbone`` strictly, its parameters may be on torch's meta device. Returns what was left behind, in words.

    Raises UserError where the checkpoint holds another model, or is not whole.
    """
    weights = open_weights(found.folder)
    family, layout = backbone.shape.family, detect_layout(weights.shapes)
    reads: dict[str, tuple[Rename, Mapping[str, str]]] = {}
    with suppress(LookupError):
        reads = named.part(named.FAMILIES, family, "layout").READS
    if layout not in reads:
        raise UserError(
            f"policy.pretrained = {found.repo or found.folder}: holds {layout}, but policy.backbone is {family}; "
            "change either"
        )
    load_weights(backbone, weights, *reads[layout])
    left = sorted({part for key in weights.shapes if (part := beside(key))})
    return [f"{part} of the weights, {BESIDE[part]}, was left behind" for part in left]


def relative_note(found: Checkpoint, delta: int, numbers: int, trained: bool) -> str:
    """In words, whether the checkpoint's files agree that its first ``delta`` of so many action numbers are relative.

    trained: whether the weights are trained on with statistics of the data, which may then be of another kind. Raises
    UserError for a mismatch otherwise: the policy would act with relative numbers as if they were absolute, or the
    reverse.
    """
    said = relative_numbers(found.folder, numbers)
    wrong = mismatch(said, delta)
    if wrong and not trained:
        raise UserError(f"{found.repo or found.folder}: {wrong}")
    return f"{wrong}, or let SFT retrain them, as now" if wrong else agreement(said, delta)


def pretrained_normalization(
    found: Published, mode: Mode, delta: int, state_numbers: int, action_numbers: int
) -> Normalization:
    """What the weights were trained with. Raises UserError where ``mode`` or ``delta`` is another, a statistic is
    missing or no sound number, or they are not of so many numbers."""
    wrong = mismatch(relative_numbers(found.folder, action_numbers), delta)
    if wrong:
        raise UserError(f"{found.folder}: {wrong}")
    state = _affine(found, "state", found.state, mode, state_numbers)
    return Normalization(state, _affine(found, "action", found.action, mode, action_numbers), delta)


def _affine(found: Published, part: str, stats: Stats, mode: Mode, numbers: int) -> Affine:
    used = found.used.get(part, mode)
    if used != mode:
        raise UserError(f"policy.normalization = {mode}: {found.path} has {used} for the {part}; they must agree")
    try:
        fault = first_fault(stats, *USED[mode])
    except KeyError as error:
        raise UserError(
            f"policy.normalization = {mode}: {found.path} has no {error} of the {part}; choose another or "
            "set policy.normalization_from: data"
        ) from None
    if fault:
        raise UserError(
            f"{found.path}: of the {part}'s statistics {fault}; download them again or set policy.normalization_from: "
            "data"
        )
    affine = published(stats, mode, found.epsilon)
    # openpi's older ones are padded with zeros, as its networks' numbers are.
    padding = [stats[name][numbers:] for name in USED[mode]]
    if len(affine.center) < numbers or any(any(values) for values in padding):
        raise UserError(
            f"{found.path}: statistics of {len(affine.center)} {part} numbers, the data have {numbers}; these weights "
            "were trained for another robot or task"
        )
    return Affine(affine.center[:numbers], affine.scale[:numbers])


def origin_of(found: Checkpoint, family: str, notes: list[str]) -> dict[str, Any]:
    """To be recorded beside what was trained from it. notes: what its reading found to tell."""
    folder = None if found.repo else str(found.folder)
    return {"family": family, "folder": folder, "repo": found.repo, "commit": found.commit, "notes": notes}

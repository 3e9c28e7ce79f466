"""Safetensors checkpoints, whole or sharded: which keys, whose layout, and a strict load tensor by tensor."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from pirl_core.errors import UserError
from pirl_core.readers.paths import bare
from pirl_core.readers.tensors import tensor_shapes
from pirl_core.readers.text import read_json

Rename = Callable[[str], str | None]
"""A checkpoint's key to our state_dict key; None for one that is dropped on purpose; UserError for a strange one."""

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
AGAIN = "copy or download it again"
PI_LAYOUTS = {"paligemma_with_expert.": "openpi", "model.paligemma_with_expert.": "lerobot"}
OTHER_LAYOUTS = {
    "model.vlm_with_expert.": "lerobot_smolvla",
    "backbone.eagle_model.": "isaac_groot_n15",
    "_groot_model.backbone.eagle_model.": "lerobot_groot_n15",
    # Ours: π0 and π0.5, SmolVLA, GR00T.
    "pi0.": "pirl",
    "lm_expert.": "pirl",
    "mlp1.": "pirl",
}


class Weights(NamedTuple):
    """What the headers of a checkpoint's files tell. files, shapes: by key of the checkpoint."""

    folder: Path
    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]


def open_weights(folder: Path) -> Weights:
    """Read the headers only. As elsewhere ``model.safetensors`` wins over an index beside it.

    Raises UserError for pickles, for files that are missing, cut short or damaged, and for an index that lies.
    """
    if (folder / SINGLE).exists():
        whole = tensor_shapes(folder / SINGLE, AGAIN)
        return Weights(folder, dict.fromkeys(whole, folder / SINGLE), whole)
    if not (folder / INDEX).exists():
        raise _nothing(folder)
    named = _read_index(folder / INDEX)
    shards = sorted(set(named.values()))
    absent = [shard for shard in shards if not (folder / shard).exists()]
    if absent:
        raise UserError(
            f"{folder}: partly downloaded, {INDEX} names {_some(absent)} of {len(shards)} files, not there; "
            "finish the download"
        )
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        here = tensor_shapes(folder / shard, AGAIN)
        promised = {key for key, file in named.items() if file == shard}
        if promised != here.keys():
            wrong = sorted(promised ^ here.keys())
            raise UserError(f"{folder / shard}: its keys are not those of {INDEX} ({_some(wrong)}); {AGAIN}")
        files |= dict.fromkeys(here, folder / shard)
        shapes |= here
    return Weights(folder, files, shapes)


def refuse_pickle(path: Path) -> None:
    """Raises UserError that names the safe way in, if ``path`` is a pickle by its suffix."""
    if path.suffix in PICKLES:
        raise UserError(
            f"{path}: a pickle, which can run code when it is loaded; convert it in isolation with "
            f"`python -m pirl_core.checkpoints.convert {path} OUT_FOLDER` and give that folder"
        )


def detect_layout(keys: Iterable[str]) -> str:
    """By telling keys one of openpi_pi0, openpi_pi05, lerobot_pi0, lerobot_pi05, lerobot_smolvla, isaac_groot_n15,
    lerobot_groot_n15, pirl.

    Files that lerobot converted from openpi without saving them again keep openpi's keys, and are told as such.
    Raises UserError for other models.
    """
    names = sorted(keys)
    for prefix, layout in PI_LAYOUTS.items():
        if any(name.startswith(prefix) for name in names):
            adaptive = any(".dense." in name or "time_mlp_in" in name.split(".") for name in names)
            state = any("state_proj" in name.split(".") for name in names)
            if adaptive != state:
                return f"{layout}_{'pi05' if adaptive else 'pi0'}"
            raise UserError(
                f"keys as of {layout}, but with {'both' if state else 'neither'} of state_proj (π0) and time_mlp_in "
                f"(π0.5); this is no whole π0 or π0.5 checkpoint; first keys: {_some(names)}"
            )
    for prefix, layout in OTHER_LAYOUTS.items():
        if any(name.startswith(prefix) for name in names):
            return layout
    raise UserError(
        f"no known layout (openpi, lerobot, SmolVLA, GR00T N1.5, ours); first keys: {_some(names) or 'none'}; "
        "check that this is the right model"
    )


def load_weights(module: nn.Module, weights: Weights, rename: Rename, ties: Mapping[str, str] | None = None) -> None:
    """Fill the whole state_dict of ``module``, each tensor in the dtype that the module has for it.

    ties: our key to the checkpoint's key to take it from where no other key maps to it, such as a token embedding
    that is stored as the output head only.
    Parameters on the meta device get memory on the CPU; buffers that state_dict does not list stay as they are, so
    put parameters only on meta (accelerate.init_empty_weights). Beside the module, memory for one tensor is needed.

    Raises UserError where a key is missing, unexpected or of another shape, before anything is written; and for
    numbers that are not finite, also after conversion, after which the module is of no use.
    """
    slots = module.state_dict()
    sources = _match(module, slots, weights, rename, ties or {})
    fresh: dict[str, Tensor] = {}
    broken: list[str] = []
    for path in sorted(set(weights.files.values())):
        with safe_open(path, framework="pt") as file:
            for ours, theirs in sources.items():
                if weights.files[theirs] != path:
                    continue
                slot = slots[ours]
                if slot.is_meta:
                    # A copy, not the file's own pages: those would change or vanish with the file.
                    slot = fresh[ours] = torch.empty(slot.shape, dtype=slot.dtype)
                slot.copy_(file.get_tensor(theirs))
                if not _finite(slot):
                    broken.append(theirs)
    if broken:
        raise UserError(
            f"{weights.folder}: numbers that are not finite in {_some(broken)}; {AGAIN}, or load in a wider dtype"
        )
    if fresh:
        module.load_state_dict(fresh, strict=False, assign=True)


def _match(
    module: nn.Module, slots: Mapping[str, Tensor], weights: Weights, rename: Rename, ties: Mapping[str, str]
) -> dict[str, str]:
    """Our key to the checkpoint's. Everything that does not fit is told in one line."""
    sources: dict[str, str] = {}
    unexpected, double, shapes = [], [], []
    for theirs in sorted(weights.shapes):
        try:
            ours = rename(theirs)
        except UserError:
            unexpected.append(theirs)
            continue
        if ours is None or theirs == ties.get(ours):
            continue
        if ours not in slots:
            unexpected.append(theirs)
        elif ours in sources:
            double.append(f"{theirs} beside {sources[ours]}")
        else:
            sources[ours] = theirs
    for ours, theirs in ties.items():
        if ours in slots and ours not in sources and theirs in weights.shapes:
            sources[ours] = theirs
    missing = sorted(slots.keys() - sources.keys())
    for ours, theirs in sources.items():
        found, wanted = weights.shapes[theirs], tuple(slots[ours].shape)
        if found != wanted:
            shapes.append(f"{theirs} {found} instead of {wanted}")
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": shapes, "twice": double}
    told = "; ".join(f"{len(names)} {fault} ({_some(names)})" for fault, names in faults.items() if names)
    if told:
        raise UserError(
            f"{weights.folder}: does not fit {type(module).__name__}: {told}; "
            "check that model and sizes are the right ones"
        )
    return sources


def _finite(tensor: Tensor) -> bool:
    """Without a copy, unlike isfinite on the tensor: NaN wins any minimum."""
    return tensor.numel() == 0 or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def _read_index(path: Path) -> dict[str, str]:
    named = read_json(path, AGAIN).get("weight_map")
    try:
        if not isinstance(named, dict) or not named:
            raise ValueError("weight_map names no file")
        for file in set(named.values()):
            bare(file)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: no valid index of shards ({error}); {AGAIN}") from None
    return dict(named)


def _nothing(folder: Path) -> UserError:
    if not folder.is_dir():
        return UserError(f"{folder}: no such folder; check the path")
    if any(folder.rglob("*.incomplete")) or any(folder.glob("model-*-of-*.safetensors")):
        return UserError(f"{folder}: partly downloaded, neither {SINGLE} nor {INDEX} is there; finish the download")
    for path in sorted(folder.iterdir()):
        try:
            refuse_pickle(path)
        except UserError as error:
            return error
    return UserError(f"{folder}: neither {SINGLE} nor {INDEX}; give the folder that holds the weights")


def _some(names: list[str]) -> str:
    """The first three, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more

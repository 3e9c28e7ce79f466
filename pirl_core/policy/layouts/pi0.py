"""Names of the tensors of published π0 and π0.5 checkpoints, and ours.

``openpi`` is the layout of openpi's PyTorch weights (what its converter makes of pi0_base, pi05_libero and the others);
lerobot's (lerobot/pi0_base, lerobot/pi05_base) is the same, with ``model.`` before it where a policy saved it. Files
written with transformers 5 lack the ``vision_model.`` of SigLIP's keys. All of these are read.

The word embedding is tied to PaliGemma's output layer, and safetensors keeps one of two tied tensors: by the alphabet
``lm_head``, where the sharing was known. So a file may hold ``embed_tokens``, ``lm_head`` or both. Both names lead to
our embedding; ``sources`` settles which is read.
"""

from collections.abc import Iterable

from pirl_core.errors import UserError
from pirl_core.policy.pi0 import Pi0Shape

VLM = "paligemma_with_expert.paligemma."
EXPERT = "paligemma_with_expert.gemma_expert."
VISION = f"{VLM}model.vision_tower."
TIED = f"{VLM}lm_head.weight"
EMBEDDING = f"{VLM}model.language_model.embed_tokens.weight"
LEROBOT = "model."
# The expert is fed embeddings and gives features: no words go in or out.
UNUSED = (f"{EXPERT}lm_head.weight", f"{EXPERT}model.embed_tokens.weight")

# (theirs, ours): the beginning of a key; the first that fits counts.
PREFIXES = (
    (f"{VISION}vision_model.", "pi0.model.vlm.vision_tower."),
    (f"{VLM}model.", "pi0.model.vlm."),
    (f"{EXPERT}model.", "pi0.model.dit."),
    ("action_out_proj.", "pi0.action_out_proj."),
    *(
        (name, f"pi0.embed_action_time.{name}")
        for name in (
            "action_in_proj.",
            "state_proj.",
            "action_time_mlp_in.",
            "action_time_mlp_out.",
            "time_mlp_in.",
            "time_mlp_out.",
        )
    ),
)


def openpi_names(key: str) -> str | None:
    """The checkpoint's key → our name; None where the policy has no use for it. Raises UserError on a strange key."""
    if key in UNUSED:
        return None
    key = EMBEDDING if key == TIED else key
    for theirs, ours in PREFIXES:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    raise UserError(f"{key}: no tensor of π0 or π0.5; load safetensors of openpi's PyTorch models or of lerobot's")


def openpi_keys(name: str) -> str:
    """Our name → the checkpoint's key, the embedding as ``lm_head``. Raises UserError for what the release has no place
    for, a conv stem say."""
    for theirs, ours in PREFIXES:
        if name.startswith(ours):
            key = theirs + name.removeprefix(ours)
            return TIED if key == EMBEDDING else key
    raise UserError(f"{name}: π0 has no such tensor; only policies of size full can be exported")


def lerobot_names(key: str) -> str | None:
    """As ``openpi_names``, for LeRobot's files, with or without ``model.``"""
    return openpi_names(key.removeprefix(LEROBOT))


def lerobot_keys(name: str) -> str:
    """As ``openpi_keys``, for LeRobot's files."""
    return LEROBOT + openpi_keys(name)


def sources(keys: Iterable[str]) -> dict[str, str]:
    """Our name → the key to read it from, for all keys of a file of openpi or LeRobot that are of use.

    Where the file holds the embedding twice, ``embed_tokens`` is taken, which is what both run. Raises UserError on a
    strange key.
    """
    # lm_head first, so that embed_tokens takes its place.
    ordered = sorted(keys, key=lambda key: not key.endswith(TIED))
    return {name: key for key in ordered if (name := lerobot_names(key)) is not None}


def unread_shapes(shape: Pi0Shape) -> dict[str, tuple[int, ...]]:
    """openpi's keys and shapes of what its strict loading wants but no forward pass reads; any numbers will do."""
    return {f"{EXPERT}lm_head.weight": (shape.vocabulary, shape.expert_width)}

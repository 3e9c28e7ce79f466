"""Names of the tensors of published π0 and π0.5 checkpoints, and ours.

``openpi`` is the layout of openpi's PyTorch weights (what its converter makes of pi0_base, pi05_libero and the others);
``lerobot`` is the same behind ``model.``. Files written with transformers 5 lack the ``vision_model.`` of SigLIP's
keys; both forms are read.

The word embedding is tied to PaliGemma's output layer, and safetensors keeps one of two tensors that share memory: by
the alphabet ``lm_head``. So a file may hold ``embed_tokens``, ``lm_head`` or both. The first is read where it is there
(both projects run it); the ties say what to read where it is not. We write ``lm_head``, as openpi does.
"""

from collections.abc import Mapping

from pirl_core.errors import UserError
from pirl_core.policy.families.pi0.network import Pi0Shape
from pirl_core.policy.layouts import STEM, beside

VLM = "paligemma_with_expert.paligemma."
EXPERT = "paligemma_with_expert.gemma_expert."
VISION = f"{VLM}model.vision_tower."
TIED = f"{VLM}lm_head.weight"
LEROBOT = "model."
# The expert is fed embeddings and gives features: no words go in or out.
UNUSED = (f"{EXPERT}lm_head.weight", f"{EXPERT}model.embed_tokens.weight", TIED)

# (theirs, ours): the beginning of a key; the first that fits counts.
PREFIXES = (
    (f"{VISION}vision_model.", "pi0.model.vlm.vision_tower."),
    (f"{VLM}model.", "pi0.model.vlm."),
    (f"{EXPERT}model.", "pi0.model.dit."),
    ("action_out_proj.", "pi0.action_out_proj."),
    STEM,
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
# Our name: the key that holds it where no key of its own does.
OPENPI_TIES: Mapping[str, str] = {"pi0.model.vlm.language_model.embed_tokens.weight": TIED}
LEROBOT_TIES: Mapping[str, str] = {name: LEROBOT + key for name, key in OPENPI_TIES.items()}


def openpi_names(key: str) -> str | None:
    """The checkpoint's key → our name; None where the policy has no use for it. Raises UserError on a strange key."""
    if key in UNUSED or beside(key):
        return None
    for theirs, ours in PREFIXES:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    raise UserError(f"{key}: no tensor of π0 or π0.5; load safetensors of openpi's PyTorch models or of lerobot's")


def openpi_keys(name: str) -> str:
    """Our name → the checkpoint's key. Raises UserError for what has no place there."""
    for theirs, ours in PREFIXES:
        if name.startswith(ours):
            return OPENPI_TIES.get(name, theirs + name.removeprefix(ours))
    raise UserError(f"{name}: π0 has no such tensor; it belongs to another family")


def openpi_unused(shape: Pi0Shape) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of what openpi's strict loading wants but no forward pass reads; any numbers will do."""
    return {f"{EXPERT}lm_head.weight": (shape.vocabulary, shape.expert_width)}


def lerobot_names(key: str) -> str | None:
    """As ``openpi_names``, for LeRobot's files."""
    return openpi_names(key.removeprefix(LEROBOT))


def lerobot_keys(name: str) -> str:
    """As ``openpi_keys``, for LeRobot's files."""
    return LEROBOT + openpi_keys(name)


def lerobot_unused(shape: Pi0Shape) -> dict[str, tuple[int, ...]]:
    """As ``openpi_unused``, for LeRobot's files."""
    return {LEROBOT + key: size for key, size in openpi_unused(shape).items()}


READS = {"openpi_pi0": (openpi_names, OPENPI_TIES), "lerobot_pi0": (lerobot_names, LEROBOT_TIES)}
"""By layout of published weights: its key map, and what to read a tied tensor from where its own key is not there."""

"""Names of GR00T-N1.5-3B's tensors, and ours.

``isaac`` is the layout that NVIDIA publishes (Isaac-GR00T); LeRobot's is the same behind one more prefix.
"""

from pirl_core.errors import UserError
from pirl_core.policy.layouts import STEM, beside

LAYERS = 12
LANGUAGE = "backbone.eagle_model.language_model."
VISION = "backbone.eagle_model.vision_model."
LEROBOT = "_groot_model."
# Eagle's output layers and SigLIP's pooling serve a language model and a classifier, not the policy.
UNUSED = (f"{LANGUAGE}lm_head.", f"{VISION}vision_model.head.", f"{VISION}head.")
# Ours → theirs: where a writer kept one of two tied tensors, the embedding may be there as the output layer alone.
ISAAC_TIES = {"language_model.embed_tokens.weight": f"{LANGUAGE}lm_head.weight"}
LEROBOT_TIES = {ours: LEROBOT + theirs for ours, theirs in ISAAC_TIES.items()}

# (theirs, ours): the beginning of a key.
PREFIXES = (
    (f"{VISION}vision_model.", "vision_model."),
    ("backbone.eagle_model.mlp1.0.", "mlp1."),
    (f"{LANGUAGE}model.", "language_model."),
    ("action_head.vl_self_attention.transformer_blocks.", "action_head.vl_self_attention."),
    ("action_head.model.timestep_encoder.timestep_embedder.", "action_head.model.timestep_encoder."),
    ("action_head.", "action_head."),
    STEM,
)
# (theirs, ours): inside a block of the action head.
PARTS = ((".attn1.to_out.0.", ".attn1.to_out."), (".ff.net.0.proj.", ".ff.up."), (".ff.net.2.", ".ff.down."))


def isaac_names(key: str) -> str | None:
    """The checkpoint's key → our name; None where the policy has no use for it. Raises UserError on a strange key.

    Files written with transformers 5 lack the second ``vision_model.`` of a key; both forms are read.
    """
    if key.startswith(UNUSED) or beside(key) or _layer(key) >= LAYERS:
        return None
    if key.startswith(VISION) and not key.startswith(PREFIXES[0][0]):
        key = key.replace(VISION, PREFIXES[0][0], 1)
    for theirs, ours in PREFIXES:
        if key.startswith(theirs):
            name = ours + key.removeprefix(theirs)
            for theirs_part, ours_part in PARTS:
                name = name.replace(theirs_part, ours_part)
            return name
    raise UserError(f"{key}: no tensor of GR00T N1.5; load GR00T-N1.5-3B or a model tuned from it")


def isaac_keys(name: str) -> str:
    """Our name → the checkpoint's key. Raises UserError for what has no place there."""
    for theirs, ours in PREFIXES:
        if name.startswith(ours):
            key = theirs + name.removeprefix(ours)
            for theirs_part, ours_part in PARTS if ours.startswith("action_head.") else ():
                key = key.replace(ours_part, theirs_part)
            return key
    raise UserError(f"{name}: GR00T N1.5 has no such tensor; it belongs to another family")


def lerobot_names(key: str) -> str | None:
    """As ``isaac_names``, for LeRobot's files."""
    return isaac_names(key.removeprefix(LEROBOT))


def lerobot_keys(name: str) -> str:
    """As ``isaac_keys``, for LeRobot's files."""
    return LEROBOT + isaac_keys(name)


def _layer(key: str) -> int:
    """Which layer of the language model a key belongs to; −1 for none."""
    start = f"{LANGUAGE}model.layers."
    return int(key.removeprefix(start).split(".")[0]) if key.startswith(start) else -1


READS = {"isaac_groot_n15": (isaac_names, ISAAC_TIES), "lerobot_groot_n15": (lerobot_names, LEROBOT_TIES)}
"""By layout of published weights: its key map, and what to read a tied tensor from where its own key is not there."""

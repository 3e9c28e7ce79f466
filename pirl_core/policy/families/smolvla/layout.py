"""Names of lerobot/smolvla_base's tensors, and ours. All policies that LeRobot trains from it have the same."""

from pirl_core.errors import UserError
from pirl_core.policy.layouts import STEM, beside

# (theirs, ours): the beginning of a key, the longest first.
PREFIXES = (
    ("model.vlm_with_expert.vlm.model.", "vlm."),
    ("model.vlm_with_expert.lm_expert.", "lm_expert."),
    (f"model.{STEM[0]}", STEM[1]),
    *((f"model.{name}.", f"{name}.") for name in (
        "state_proj", "action_in_proj", "action_time_mlp_in", "action_time_mlp_out", "action_out_proj",
    )),
)  # fmt: skip
# The VLM's output layer serves a language model, not the policy.
UNUSED = "model.vlm_with_expert.vlm.lm_head."


def lerobot_names(key: str) -> str | None:
    """The checkpoint's key → our name; None for the VLM's output layer and what lies beside the network.

    Raises UserError on a strange key.
    """
    if key.startswith(UNUSED) or beside(key):
        return None
    for theirs, ours in PREFIXES:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    raise UserError(
        f"{key}: no tensor of SmolVLA; load the safetensors of lerobot/smolvla_base or of a model tuned from it"
    )


def lerobot_keys(name: str) -> str:
    """Our name → the checkpoint's key. Raises UserError for what has no place there.

    The file then lacks the VLM's output layer, which LeRobot never runs and fills at random.
    """
    for theirs, ours in PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise UserError(f"{name}: SmolVLA has no such tensor; it belongs to another family")


TIES: dict[str, str] = {}
READS = {"lerobot_smolvla": (lerobot_names, TIES)}
"""By layout of published weights: its key map, and what to read a tied tensor from where its own key is not there."""

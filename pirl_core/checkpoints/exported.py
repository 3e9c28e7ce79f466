"""A policy out of what ``pirl export`` wrote of it."""

from pathlib import Path

from pirl_core.checkpoints.layouts import EXPORTED
from pirl_core.checkpoints.pretrained import load_pretrained
from pirl_core.checkpoints.source import Checkpoint
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.policy.folder import without_weights


def is_exported(folder: Path) -> bool:
    return (folder / EXPORTED).is_dir()


def load_exported(folder: Path) -> FlowPolicy:
    """Of a size of our own, in whichever layout; as ``policy.folder.load_policy`` gives it.

    Raises UserError for a folder that is not whole.
    """
    policy = without_weights(folder / EXPORTED)
    load_pretrained(policy.backbone, Checkpoint(folder, None, None))
    return policy

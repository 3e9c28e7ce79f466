"""Settings of the machine, from environment variables: no result depends on them. Loads nothing heavy."""

import os

from pirl_core.errors import UserError

WORKERS = "PIRL_WORKERS"
THREADS = "PIRL_THREADS"
PROCESSES = "PIRL_PROCESSES"
FRESH = "PIRL_FRESH"
CLUSTER = "PIRL_CLUSTER"
SHARE = "PIRL_SHARE"
MOST = 4096
"""Of threads or workers; a larger number is a slip, and the system would fall over it."""


def most_processes() -> int:
    """Each loads the policy anew: some more than there are processors, for trying things out, and no more."""
    return max(16, os.cpu_count() or 1)


def whole(name: str, least: int = 1, most: int = MOST) -> int | None:
    """The number in the variable, None where it is unset or empty. Raises UserError unless it is in [least, most]."""
    text = os.environ.get(name, "")
    if not text:
        return None
    # int() takes other scripts' digits and underscores, and gives up on thousands of digits.
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        shown = text if len(text) < 40 else f"{text[:39]}…"
        raise UserError(f"{name} = {shown!r}: must be a whole number from {least} to {most}; correct it or unset it")
    return int(text)


def cluster() -> bool:
    """Whether PIRL_CLUSTER asks for simulators elsewhere. Raises UserError for another word than ray."""
    word = os.environ.get(CLUSTER, "")
    if word not in ("", "ray"):
        raise UserError(f"{CLUSTER} = {word!r}: must be ray; correct it or unset it")
    return bool(word)


def flag(name: str) -> bool:
    """Whether the variable is 1. Raises UserError unless it is 0, 1, empty or unset."""
    text = os.environ.get(name, "")
    if text not in ("", "0", "1"):
        raise UserError(f"{name} = {text!r}: must be 1 or 0; correct it or unset it")
    return text == "1"

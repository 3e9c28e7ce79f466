"""Downloads from the hub, and what can go wrong with it, in one line each."""

import re
from collections.abc import Sequence
from pathlib import Path

from pirl_core.errors import NO_ROOM, UserError

_ANSWER_SECONDS = 5
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
COMMIT = re.compile("[0-9a-f]{40}")


def snapshot(
    repo: str,
    revision: str | None,
    wanted: Sequence[str],
    unwanted: Sequence[str] = (),
    repo_type: str = "model",
) -> Path:
    """The repository's files that match ``wanted`` and not ``unwanted``, downloaded where they are not in the cache.

    The folder's name is the commit. Raises UserError for all that goes wrong on the way.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repo, repo_type=repo_type, revision=revision, allow_patterns=list(wanted),
                ignore_patterns=list(unwanted),
            )
        )  # fmt: skip
    except Exception as error:  # of the library, of one of its HTTP stacks, of the system
        raise hub_error(error, repo, revision, "the download") from error


def commit_of(repo: str, revision: str | None, repo_type: str = "model") -> str:
    """Which commit a branch or tag is at, 40 hexadecimal digits; None: the main one. Raises as ``snapshot``."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().repo_info(repo, revision=revision, repo_type=repo_type, timeout=_ANSWER_SECONDS).sha)
    except Exception as error:  # as above
        raise hub_error(error, repo, revision, "the question") from error


def hub_error(error: Exception, repo: str, revision: str | None, doing: str) -> UserError:
    """The line for an exception of huggingface_hub. ``doing`` is the action that it ended, such as "the download"."""
    from huggingface_hub import errors

    by_hand = f"fetch it elsewhere with `hf download {repo} --local-dir FOLDER` and give that folder"
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.GatedRepoError):
        text = "gated; accept its terms on its hub page, then set HF_TOKEN to a token that may read it"
    elif isinstance(error, errors.RevisionNotFoundError):
        text = f"no revision {revision!r} on the hub; give one of its branches, tags or commits"
    elif isinstance(error, errors.RepositoryNotFoundError):
        text = (
            "no such folder, and not on the hub or private; check the name, or set HF_TOKEN to a token that may see it"
        )
    elif status in (401, 403):
        text = f"the hub refuses {doing} ({status}); set HF_TOKEN to a token with the right to it"
    elif isinstance(error, errors.HFValidationError):
        text = f"no valid hub id ({_first_line(error)}); it has the form owner/name"
    elif isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        text = f"no such folder, no whole copy in the cache, and the hub cannot be reached; {by_hand}"
    elif isinstance(error, OSError) and error.errno in NO_ROOM:
        text = f"no room for {doing} ({error.strerror}); free some, or set HF_HOME to a folder on a larger disk"
    else:
        text = f"{doing} broke off ({type(error).__name__}: {_first_line(error)}); run the command again"
    return UserError(f"{repo}: {text}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else "no details"

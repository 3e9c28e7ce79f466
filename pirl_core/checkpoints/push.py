"""Put a folder on the hub, with its model card, as one commit: a push that breaks off changes nothing there."""

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pirl_core.checkpoints.read import INDEX, SINGLE, open_weights
from pirl_core.errors import UserError
from pirl_core.readers.hub import hub_error

if TYPE_CHECKING:
    from huggingface_hub import HfApi

VIDEOS = "videos"
PUSHED = ("*.safetensors", "*.json", "*.model", "merges.txt", "vocab.txt")


def push(
    folder: Path, repo: str, card: str, message: str, private: bool = True, beside: Mapping[str, Path] | None = None
) -> str:
    """Upload, make the repository if need be (``private`` concerns only that), return the new commit.

    beside: files that go along, by their path in the repository; those of the card are in VIDEOS. Weights and videos of
    an earlier push that are not among these are removed in the same commit. Raises UserError for a
    folder that is not whole, where someone else pushed meanwhile, and for all that goes wrong on the way.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    open_weights(folder)
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if _goes(path, folder)}
    paths |= beside or {}
    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        parent, there = _state(api, repo)
        ours = (SINGLE, INDEX, "model-*-of-*.safetensors", f"{VIDEOS}/*.gif")
        stale = [name for name in there if name not in paths and any(fnmatch(name, kind) for kind in ours)]
        # Not upload_folder: with hf_xet it may split a folder into several commits.
        info = api.create_commit(
            repo,
            [
                CommitOperationAdd("README.md", card.encode()),
                *(CommitOperationAdd(name, path) for name, path in paths.items()),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=message,
            parent_commit=parent,
        )
    except Exception as error:  # of the library, of one of its HTTP stacks, of the system
        raise _push_error(error, repo) from error
    return str(info.oid)


def _state(api: "HfApi", repo: str) -> tuple[str | None, list[str]]:
    info: Any = api.repo_info(repo)
    return info.sha, [file.rfilename for file in info.siblings or []]


def _goes(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.is_file() and not hidden and any(path.match(pattern) for pattern in PUSHED)


def _push_error(error: Exception, repo: str) -> UserError:
    from huggingface_hub.errors import HfHubHTTPError

    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 412:
        return UserError(f"{repo}: someone else pushed meanwhile; look at their commit and push again")
    if status in (401, 403, 404):
        return UserError(f"{repo}: the hub refuses the push ({status}); set HF_TOKEN to a token that may write there")
    told = hub_error(error, repo, None, "the push")
    return UserError(f"{told}; a push is one commit, so nothing there is half-written")

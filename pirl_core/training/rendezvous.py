"""How the ranks of one machine find each other: by a file that only this user can read. Loads no torch.

torch's usual store is a server on every address of the machine; whoever reaches it may write, and what lies in it is
unpickled. Here nothing listens but gloo and NCCL themselves, on loopback, where no other machine comes to.
"""

import os
from pathlib import Path

STORE = "_PIRL_STORE"
"""Environment variable: the file by which a rank of our own launcher finds the others."""


def settings(folder: Path) -> dict[str, str]:
    """The environment of the launcher and its ranks; ``folder`` is theirs alone."""
    return {
        STORE: str(folder / "ranks"),
        # The agent would open a server for the ranks.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # Else the interface of the host's name, or the first that is up.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }


def store() -> Path | None:
    """The file that this rank meets the others by; None where another launcher has started it, or none."""
    path = os.environ.get(STORE)
    return Path(path) if path else None

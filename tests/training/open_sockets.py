"""Ranks that meet and tell what addresses they listen on: ``python -m tests.training.open_sockets FILE``."""

import ipaddress
import json
import sys
from pathlib import Path

import psutil

from pirl_core.training.ranks import agreed, gathered, join, leave, wait_for_all


def listening(pid: int) -> list[str]:
    """Addresses on which a process or one below it takes connections, of TCP or UDP."""
    found = []
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        sockets = process.net_connections("inet")
        found += [socket.laddr.ip for socket in sockets if socket.laddr and not socket.raddr]
    return found


def beyond(addresses: list[str]) -> list[str]:
    """Those that another machine can reach."""
    return [address for address in addresses if not ipaddress.ip_address(address).is_loopback]


if __name__ == "__main__":
    here = join()
    # Every rank has connected to every other one.
    assert gathered([here.rank]) == list(range(here.size))
    if here.main:
        Path(sys.argv[1]).write_text(json.dumps(listening(psutil.Process().parent().pid)))  # type: ignore[union-attr]
    assert agreed(here.rank) == 0
    wait_for_all()
    leave()

"""Ends the flow when whoever could look after it is gone: the worker that started it, or the server for long."""

import os
import signal
import sys
import threading
import time

import httpx

from flows.processes import Guards

SERVER_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.5
_SERVER_POLL_SECONDS = 5.0
_ORDERLY_SECONDS = 3.5
GONE = 75
"""Exit code: a temporary failure, try again (EX_TEMPFAIL)."""


def watch(guards: Guards, api_url: str, served: bool) -> threading.Event:
    """Start watching; set the event that is returned to end it. served: by a worker, whose child this process is."""
    over = threading.Event()
    arguments = (guards, api_url, os.getppid() if served else None, over)
    threading.Thread(target=_watch, args=arguments, daemon=True).start()
    return over


def _watch(guards: Guards, api_url: str, parent: int | None, over: threading.Event) -> None:
    seen = asked = time.monotonic()
    while not over.wait(_POLL_SECONDS):
        now = time.monotonic()
        if parent is not None and os.getppid() != parent:
            _leave(guards, "the worker that started this flow is gone")
        if now - asked >= _SERVER_POLL_SECONDS:
            asked = now
            seen = time.monotonic() if _answers(api_url) else seen
            if time.monotonic() - seen > SERVER_PATIENCE_SECONDS:
                _leave(guards, f"the Prefect server at {api_url} has been gone for {SERVER_PATIENCE_SECONDS:.0f} s")


def _answers(api_url: str) -> bool:
    """A server that is slow to answer is busy, not gone."""
    try:
        httpx.get(f"{api_url}/health", timeout=5)
    except httpx.TimeoutException:
        return True
    except httpx.HTTPError:
        return False
    return True


def _leave(guards: Guards, reason: str) -> None:
    """End the stages, let Prefect record the crash if it can, and go."""
    deadline = time.monotonic() + _ORDERLY_SECONDS
    print(f"pirl: flow: {reason}; stopped, a rerun goes on from the last checkpoints", file=sys.stderr, flush=True)
    guards.end_all()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(max(0.5, deadline - time.monotonic()))
    os._exit(GONE)

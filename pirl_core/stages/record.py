"""What a number was made on: machine, versions, revision, memory."""

import os
import platform
import subprocess
import sys
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

PACKAGES = ("torch", "transformers", "accelerate", "peft", "numpy", "mujoco", "metaworld", "pandas", "pyarrow", "dvc")
MADE = ("dvc.lock", "results")
SOURCES = ("pirl_core", "flows")
_MIB = 2**20


class MemoryWatch:
    """Peak memory of this process with all its children, looked at every ``interval`` seconds.

    Shared pages count once (PSS) where the system tells, so forked workers are not counted as copies of their parent.
    GPU memory is not included.
    """

    def __init__(self, interval: float = 1.0) -> None:
        self.peak_mib = 0
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._look()
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._look()

    def _look(self) -> None:
        me = psutil.Process()
        used = 0
        for process in (me, *me.children(recursive=True)):
            try:
                info = process.memory_full_info()
                used += getattr(info, "pss", info.rss)
            except psutil.Error:  # it ended between the listing and the look
                continue
        self.peak_mib = max(self.peak_mib, used // _MIB)


def machine() -> dict[str, str | int | list[str]]:
    """Processor, cores this process may use, memory, and GPUs when torch was loaded and sees any."""
    gpus: list[str] = []
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": psutil.virtual_memory().total // _MIB,
        "gpus": gpus,
        "system": platform.platform(terse=True),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def revision() -> str:
    """As ``git describe --always --dirty`` says it, or 'unknown' outside a repository.

    The run's own record does not make it dirty, dvc.lock and results/; a source file that git does not know yet does.
    """
    # Another git may be at work: this one shall not refresh the index.
    status = ("--no-optional-locks", "status", "--porcelain")
    try:
        described = _git("describe", "--always")
        changed = _git(*status, "--untracked-files=no", "--", ":/", *(f":(top,exclude){path}" for path in MADE))
        unknown = _git(*status, "--untracked-files=normal", "--", *(f":/{path}" for path in SOURCES))
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    new = [line for line in unknown.splitlines() if line.startswith("??")]
    return f"{described}-dirty" if changed or new else described


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()

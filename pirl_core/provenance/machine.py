"""On what a number was made, and how much memory that took."""

import os
import platform
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

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

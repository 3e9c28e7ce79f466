"""How many stages run side by side, and on which cores and GPUs each of them.

Prefect's global concurrency limits pirl-cpu and pirl-gpu are obeyed where they are defined, across all flow runs.
Threads take part in a result's last digits, so a stage's share depends on the graph and the machine, never on timing.
"""

import os
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence

import psutil

from flows.graph import Stage, beside
from pirl_core.readers.variables import CLUSTER, THREADS, WORKERS

TRAINED_ON_GPU = ("sft", "rl", "evaluate")
_STAGE_BYTES = 6 << 30
"""Memory that a stage may need at the laptop scale: two at once want twice that."""


def limit_name(resource: str) -> str:
    return f"pirl-{resource}"


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """What CUDA_VISIBLE_DEVICES may list: its own entries, or the numbers that nvidia-smi counts."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() and name != "-1"]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def default_slots(cores: int, memory: int, gpus: int, processes: int | None) -> dict[str, int]:
    """Stages at once per resource. memory: bytes. processes: those of one stage, None for as many as its GPUs."""
    return {
        "cpu": max(1, min(2, cores, memory // _STAGE_BYTES)),
        "gpu": max(1, gpus // max(1, processes or 1)),
    }


class Machine:
    """Slots of this machine, and which GPUs are how busy."""

    def __init__(
        self,
        limits: Mapping[str, int],
        environment: Mapping[str, str],
        gpus: Sequence[str],
        processes: int | None = None,
    ) -> None:
        """``limits``: the defined ones, by resource. processes: those of one stage, None for as many as its GPUs."""
        self.environment = environment
        self.gpus = list(gpus)
        self.cores = len(os.sched_getaffinity(0))
        self.processes = processes
        default = default_slots(self.cores, psutil.virtual_memory().total, len(gpus), self.processes)
        self.slots = {resource: max(1, limits.get(resource, default[resource])) for resource in default}
        self.limited = set(limits)
        self._load: Counter[str] = Counter(dict.fromkeys(gpus, 0))

    def describe(self) -> str:
        shown = [name for name in self.slots if name == "cpu" or self.gpus]
        return ", ".join(
            f"{self.slots[name]} on {name} ({limit_name(name) if name in self.limited else 'default'})"
            for name in shown
        )

    def resource(self, stage: Stage) -> str:
        return "gpu" if self.gpus and stage.kind in TRAINED_ON_GPU else "cpu"

    def together(self, stage: Stage, stages: Sequence[Stage]) -> int:
        """The most stages of its resource that can run with it, itself included."""
        same = [other for other in beside(stages, stage.address) if self.resource(other) == self.resource(stage)]
        return min(self.slots[self.resource(stage)], 1 + len(same))

    def take(self, stage: Stage, stages: Sequence[Stage]) -> list[str]:
        """The GPUs for a stage that starts: the idlest ones."""
        if self.resource(stage) == "cpu":
            return []
        count = self.processes or len(self.gpus) // self.together(stage, stages)
        taken = sorted(self.gpus, key=lambda gpu: self._load[gpu])[: max(1, count)]
        self._load.update(taken)
        return taken

    def give_back(self, taken: Sequence[str]) -> None:
        self._load.subtract(taken)

    def variables(self, stage: Stage, stages: Sequence[Stage], taken: Sequence[str]) -> dict[str, str]:
        """The environment of a stage: its share of the machine, unless the user has set it."""
        share = str(max(1, self.cores // self.together(stage, stages)))
        # On a cluster a stage has as many simulators as are free there.
        workers = {} if self.environment.get(CLUSTER) else {WORKERS: share}
        own = {THREADS: share, **workers, **self.environment, "PYTHONUNBUFFERED": "1"}
        return {**own, "CUDA_VISIBLE_DEVICES": ",".join(taken)} if len(self.gpus) > 1 and taken else own

"""Metrics of a run: a JSON-lines file always, TensorBoard beside it, and a progress line with the time left."""

import json
import time
from pathlib import Path
from typing import TextIO

from torch.utils.tensorboard import SummaryWriter


class Tracker:
    """Writes one JSON object a call to ``folder/metrics.jsonl`` and the same scalars to TensorBoard.

    Names follow CleanRL: losses/policy_loss, losses/approx_kl, charts/SPS and so on. Use as a context manager.
    """

    def __init__(self, name: str, folder: Path, tensorboard: Path, total: int) -> None:
        self.name = name
        self.total = total
        self.started = time.monotonic()
        self.file: TextIO = (folder / "metrics.jsonl").open("w")
        self.writer = SummaryWriter(str(tensorboard))

    def log(self, step: int, metrics: dict[str, float], shown: tuple[str, ...]) -> None:
        """Record ``metrics`` at ``step`` and print those in ``shown`` with step, total and the time left."""
        self.file.write(json.dumps({"step": step, **metrics}) + "\n")
        self.file.flush()
        for key, value in metrics.items():
            self.writer.add_scalar(key, value, step)
        left = (time.monotonic() - self.started) / max(step, 1) * (self.total - step)
        values = " ".join(f"{key}={metrics[key]:.3g}" for key in shown if key in metrics)
        print(f"[{self.name}] {step}/{self.total} {values} eta={int(left // 60)}:{int(left % 60):02d}", flush=True)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.writer.close()

"""What a server has done, as Prometheus reads it."""

import time
from dataclasses import dataclass, field


@dataclass
class Counters:
    """clients: connected now. connections: ever. answers: chunks or actions sent; refusals: messages that got an error.
    rows: of all forwards. seconds: of forwards; waited: of answers, from the message to its answer."""

    clients: int = 0
    connections: int = 0
    answers: int = 0
    refusals: int = 0
    forwards: int = 0
    rows: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    begun: float = field(default_factory=time.monotonic)

    def forward(self, rows: int, seconds: float) -> None:
        self.forwards += 1
        self.rows += rows
        self.seconds += seconds

    def text(self) -> str:
        """In Prometheus' text format."""
        rows = (
            ("clients", "gauge", "connected now", self.clients),
            ("connections_total", "counter", "connections since the start", self.connections),
            ("answers_total", "counter", "actions or chunks sent", self.answers),
            ("refusals_total", "counter", "messages that were answered by an error", self.refusals),
            ("forwards_total", "counter", "batches that the policy computed", self.forwards),
            ("rows_total", "counter", "observations in these batches", self.rows),
            ("forward_seconds_total", "counter", "time of these batches", self.seconds),
            ("answer_seconds_total", "counter", "time from messages to their answers", self.waited),
            ("uptime_seconds", "gauge", "since the start", time.monotonic() - self.begun),
        )
        return "".join(
            f"# HELP pirl_serve_{name} {about}\n# TYPE pirl_serve_{name} {kind}\npirl_serve_{name} {value}\n"
            for name, kind, about, value in rows
        )

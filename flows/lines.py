"""What a stage under DVC prints, understood line by line.

A stage prints ``[rl metaworld-flow_sde-0] 5/22 charts/success=0.61 eta=3:10``, ``[rl ...] warning: ...`` and, when it
refuses its input or a guard stops it, ``pirl: rl: ...`` with exit code 2.
"""

import logging
import re
from typing import NamedTuple

_PROGRESS = re.compile(r"^\[[^\]]+\] (\d+)/(\d+)(?: (.*))?$")
_ETA = re.compile(r"\beta=((?:\d+:)?\d+):(\d\d)\b")
_WARNING = re.compile(r"^(\[[^\]]+\] |pirl: )?warning:", re.IGNORECASE)
_ERROR = re.compile(r"^(ERROR:|Traceback |pirl: |[\w.]*(Error|Exception)\b)")
_EXCEPTION = re.compile(r"^[\w.]*(Error|Exception)\b")
_EXIT = re.compile(r"failed to run: .*, exited with (-?\d+)")
_UNCHANGED = re.compile(r"^(Stage '.*' (didn't change, skipping|is cached - skipping run)|Pulling data for )")
_RUNS = re.compile(r"^Running stage '")
_PREFIX = re.compile(r"^pirl: (\w+: )?")
REFUSED = 2
"""Exit code of a stage that a rerun would not help: bad input, or a guard stopped it."""


class Progress(NamedTuple):
    """eta: seconds left, None where the stage does not tell. text: the rest of the line."""

    step: int
    total: int
    eta: int | None
    text: str

    @property
    def share(self) -> float:
        return min(1.0, self.step / self.total) if self.total else 0.0


def progress(line: str) -> Progress | None:
    match = _PROGRESS.match(line)
    if not match:
        return None
    text = match[3] or ""
    left = _ETA.search(text)
    eta = None
    if left:
        *hours, minutes = (int(part) for part in left[1].split(":"))
        eta = (sum(hours) * 60 + minutes) * 60 + int(left[2])
    return Progress(int(match[1]), int(match[2]), eta, text)


def clock(seconds: int) -> str:
    """m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def level(line: str) -> int:
    if _WARNING.match(line):
        return logging.WARNING
    return logging.ERROR if _ERROR.match(line) else logging.INFO


class Transcript:
    """What the lines of one run say about it, gathered as they come.

    raised: the last exception, as its traceback ends. exit_code: the stage command's own, where DVC tells; DVC itself
    exits with 255 or 1 for any failure.
    """

    def __init__(self) -> None:
        self.unchanged = False
        self.raised = ""
        self.exit_code: int | None = None
        self._said = ""
        self._error = ""

    def add(self, line: str) -> None:
        if _UNCHANGED.match(line):
            self.unchanged = True
        elif _RUNS.match(line):
            self.unchanged = False
        elif line.startswith("pirl: ") and not _WARNING.match(line):
            self._said = _PREFIX.sub("", line)
        elif _EXCEPTION.match(line):
            self.raised = line
        elif line.startswith("ERROR:"):
            found = _EXIT.search(line)
            if found:
                self.exit_code = int(found[1])
            self._error = self._error or line.removeprefix("ERROR:").strip()

    @property
    def message(self) -> str:
        """Why it failed, in one line."""
        return self._said or self.raised or self._error or "it printed no reason"

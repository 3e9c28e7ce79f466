"""What a command prints arrives on every terminal, an ASCII one as well."""

import codecs
import io
import sys

_STANDS_FOR = {
    "─": "-", "–": "-", "−": "-", "…": "...", "×": "x", "·": "*", "π": "pi", "²": "2", "≤": "<=", "≥": ">=", "→": "->",
    "±": "+-", "Δ": "D", "τ": "tau", "’": "'", "█": "#",
    "°": " deg", "†": "+", "‡": "#", "γ": "gamma", "⁻": "-",
    **dict(zip("⁰¹³⁴⁵⁶⁷⁸⁹", "013456789", strict=True)), **dict(zip("▁▂▃▄▅▆▇", "_.:-=+*", strict=True)),
}  # fmt: skip


def speak() -> None:
    """From here on what the encoding of standard output and error lacks is written in ASCII, and never raises."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="pirl")


def refuse(command: str, message: str) -> int:
    """Tell why a command does nothing, in one line on standard error. Returns its exit code."""
    print(f"pirl: {command}: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """Same number of characters where it can be, so that columns stay in line; ``?`` for what has no stand-in."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_STANDS_FOR.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


codecs.register_error("pirl", _spelled)

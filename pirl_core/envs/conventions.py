"""How a benchmark's numbers and pictures are meant, for a policy of somebody else: a folder's module ``conventions``.

No stage reads it: what is said here changes no result.
"""

from typing import Any, NamedTuple

from pirl_core import named


class Part(NamedTuple):
    """Numbers of an action that belong together. format: in the words of vla-eval (``vla_eval.specs``); meaning: in
    ours. range: of each number: the simulator's bounds, and where it has none, what its robot does in one step."""

    name: str
    dims: int
    format: str
    meaning: str
    range: tuple[float, float]

    def spec(self) -> dict[str, Any]:
        """As vla-eval's greetings have it."""
        return {"name": self.name, "dims": self.dims, "format": self.format, "range": list(self.range)}


class Conventions(NamedTuple):
    """action: its parts, in the order of the numbers. state: what stands in it."""

    action: tuple[Part, ...]
    state: str
    images: str = "upright, red, green and blue, (height, width, 3) of uint8"


def conventions_of(benchmark: str) -> Conventions | None:
    """None where its folder states none."""
    if not named.exists(named.BENCHMARKS, benchmark, "conventions"):
        return None
    found: Conventions = named.part(named.BENCHMARKS, benchmark, "conventions").CONVENTIONS
    return found

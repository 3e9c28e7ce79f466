"""Numbers of the demonstrations that hardly vary: who normalises them must know, and who reads them is told."""

from collections.abc import Sequence

import numpy as np

# Half a range below this is a controller's jitter, not a variation.
STILL = 1e-4
# The quantiles 1 % and 99 % may miss so large a share of the frames.
RARE = 0.02


def hardly_varying(values: np.ndarray) -> dict[int, float]:
    """Number → share of the frames in which it has one value, for the numbers of values (N, numbers) whose share is so
    large that quantiles may miss the rest; 1 for one that never varies."""
    shares = (np.abs(values - np.median(values, 0)) < STILL).mean(0)
    return {number: float(share) for number, share in enumerate(shares) if share >= 1 - RARE}


def variation_notes(part: str, names: Sequence[str], values: np.ndarray) -> list[str]:
    """A line for each number of values (N, numbers) that hardly varies, and one for all that never do. part: such as
    'action'. names: of the first numbers."""
    lines, still = [], []
    for number, share in hardly_varying(values).items():
        told = f"{number} ({names[number]})" if number < len(names) else str(number)
        if share == 1:
            still.append(told)
        else:
            lines.append(
                f"{part} number {told} has one value in {100 * share:.1f} % of the frames; where quantiles or std miss "
                "the others, its extremes normalise it"
            )
    if still:
        lines.append(f"{part} numbers that never vary, and that a policy can learn nothing of: {', '.join(still)}")
    return lines

"""Statistics of each feature, exact over all frames, in the form of lerobot's ``meta/stats.json``.

Axes: N frames, D numbers of a vector, H W pixels.
"""

from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def vector_stats(values: np.ndarray) -> dict[str, Any]:
    """min, max, mean, std (population), count and quantiles of values (N, D) or (N,), as lists of length D or 1."""
    columns = values.reshape(len(values), -1).astype(np.float64)
    moments = {
        "min": columns.min(0),
        "max": columns.max(0),
        "mean": columns.mean(0),
        "std": columns.std(0),
        "count": np.array([len(columns)]),
    }
    quantiles = np.quantile(columns, list(QUANTILES.values()), axis=0)
    return {name: value.tolist() for name, value in (moments | dict(zip(QUANTILES, quantiles, strict=True))).items()}


def image_histogram(images: np.ndarray) -> np.ndarray:
    """How often each value occurs per channel: images (N, H, W, 3) uint8 → (3, 256) int64. Histograms add up."""
    return np.stack([np.bincount(images[..., channel].reshape(-1), minlength=256) for channel in range(3)])


def image_stats(histogram: np.ndarray, frames: int) -> dict[str, Any]:
    """Statistics of pixels in [0, 1] from their histogram (3, 256); each is (3, 1, 1) as lists, count is of frames.

    A quantile q is the smallest value that at least a share q of the pixels does not exceed.
    """
    levels = np.arange(256) / 255.0
    pixels = histogram.sum(1)
    mean = histogram @ levels / pixels
    cumulative = histogram.cumsum(1) / pixels[:, None]
    moments = {
        "min": levels[(histogram > 0).argmax(1)],
        "max": levels[255 - (histogram[:, ::-1] > 0).argmax(1)],
        "mean": mean,
        "std": np.sqrt((histogram * (levels - mean[:, None]) ** 2).sum(1) / pixels),
    }
    quantiles = {name: levels[(cumulative >= q).argmax(1)] for name, q in QUANTILES.items()}
    channels = {name: value.reshape(3, 1, 1).tolist() for name, value in (moments | quantiles).items()}
    return channels | {"count": [frames]}

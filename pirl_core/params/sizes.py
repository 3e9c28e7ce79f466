"""The words by which params.yaml names a model's size and its normalisation; imported where torch is not."""

from typing import Literal

Size = Literal["nano", "tiny", "S", "M", "L", "full"]
"""nano to L train from scratch: about 0.1, 1, 1.5, 5 and 13 million parameters. full: as published."""
Mode = Literal["mean_std", "quantile", "min_max"]
"""Zero mean and unit std (π0), or the 1 % and 99 % quantiles (π0.5) or the extremes (GR00T N1.5) at −1 and 1."""

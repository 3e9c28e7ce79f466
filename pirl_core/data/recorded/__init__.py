"""Demonstrations that others recorded: LeRobot v2.0 and v2.1 datasets, pictures in the parquet files or in mp4 files.

Such are the hub's LIBERO dataset, ``physical-intelligence/libero`` (images in parquet), and its CALVIN dataset,
``InternRobotics/InternData-Calvin_ABC`` (mp4; state and action in three columns each), as the official implementation
of the paper reads them.
"""

from pirl_core.data.recorded.episodes import clipped, read_episodes
from pirl_core.data.recorded.index import Listed, Recorded, open_recorded
from pirl_core.data.recorded.tasks import Shared, shared_sentences

__all__ = ["Listed", "Recorded", "Shared", "clipped", "open_recorded", "read_episodes", "shared_sentences"]

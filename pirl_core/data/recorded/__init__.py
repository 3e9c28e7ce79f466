"""Demonstrations that others recorded: LeRobot v2 and v3 datasets, pictures in the parquet files or in mp4 files; and
the files of steps of offline RL (``steps``).

The first are the hub's datasets of LIBERO, ``physical-intelligence/libero`` and ``lerobot/libero``, of MetaWorld,
``lerobot/metaworld_mt50``, and of CALVIN, ``InternRobotics/InternData-Calvin_ABC`` (mp4; state and action in three
columns each), which the paper's SFT learns from; and anybody's own.
"""

from pirl_core.data.recorded.episodes import clipped, read_episodes
from pirl_core.data.recorded.files import Listed, Recorded
from pirl_core.data.recorded.index import open_recorded
from pirl_core.data.recorded.tasks import Shared, shared_sentences

__all__ = ["Listed", "Recorded", "Shared", "clipped", "open_recorded", "read_episodes", "shared_sentences"]

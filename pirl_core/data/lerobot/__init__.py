"""Datasets in the LeRobot v3.0 layout (huggingface/lerobot, ``lerobot.datasets``), written and read without lerobot.

lerobot's pins exclude current torch and transformers; the layout is plain parquet and JSON. lerobot's own reader opens
what is written here, and what lerobot records with images inside parquet (``use_videos=False``) is read here.
"""

from pirl_core.data.lerobot.pictures import Pictures
from pirl_core.data.lerobot.reader import Frames, action_chunks, dataset_stats, read_dataset
from pirl_core.data.lerobot.writer import write_dataset
from pirl_core.types import DemoEpisode

__all__ = ["DemoEpisode", "Frames", "Pictures", "action_chunks", "dataset_stats", "read_dataset", "write_dataset"]

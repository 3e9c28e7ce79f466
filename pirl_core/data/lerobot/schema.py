"""The LeRobot v3.0 layout as data: paths, features, parquet schemas."""

import json
from typing import Any

import pyarrow as pa

from pirl_core.facts import Facts

VERSION = "v3.0"
INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
FILES_PER_CHUNK = 1000
DATA_FILE_MB = 100

IMAGE = "observation.images.{camera}"
STATE = "observation.state"
ENVIRONMENT_STATE = "observation.environment_state"
ACTION = "action"


def features(cameras: list[str], image_size: int, facts: Facts) -> dict[str, dict[str, Any]]:
    """``features`` of ``info.json``: what each column holds."""
    image = {"dtype": "image", "shape": [image_size, image_size, 3], "names": ["height", "width", "channels"]}
    return {
        **{IMAGE.format(camera=camera): image for camera in cameras},
        STATE: _vector("float32", len(facts.state), list(facts.state)),
        ENVIRONMENT_STATE: _vector("float32", facts.object_state, None),
        ACTION: _vector("float32", len(facts.action), list(facts.action)),
        "next.reward": _vector("float32", 1, None),
        "next.done": _vector("bool", 1, None),
        "next.success": _vector("bool", 1, None),
        "timestamp": _vector("float32", 1, None),
        "frame_index": _vector("int64", 1, None),
        "episode_index": _vector("int64", 1, None),
        "index": _vector("int64", 1, None),
        "task_index": _vector("int64", 1, None),
    }


def arrow_schema(columns: dict[str, dict[str, Any]]) -> pa.Schema:
    """Parquet schema of the data files, with the metadata by which Hugging Face datasets decodes the columns."""
    described = {"info": {"features": {name: _huggingface_feature(column) for name, column in columns.items()}}}
    fields = [pa.field(name, _arrow_type(column)) for name, column in columns.items()]
    return pa.schema(fields, metadata={"huggingface": json.dumps(described)})


def _vector(dtype: str, length: int, names: list[str] | None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [length], "names": names}


def _arrow_type(column: dict[str, Any]) -> pa.DataType:
    if column["dtype"] == "image":
        return pa.struct({"bytes": pa.binary(), "path": pa.string()})
    value = pa.type_for_alias(column["dtype"])
    return value if column["shape"] == [1] else pa.list_(value, column["shape"][0])


def _huggingface_feature(column: dict[str, Any]) -> dict[str, Any]:
    if column["dtype"] == "image":
        return {"_type": "Image"}
    value = {"dtype": column["dtype"], "_type": "Value"}
    return value if column["shape"] == [1] else {"feature": value, "length": column["shape"][0], "_type": "List"}

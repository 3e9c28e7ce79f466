"""TensorBoard's event file, written as its protocol says: scalars, text, animated GIFs. Loads no torch."""

import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np

from pirl_core.files import naming
from pirl_core.training.gif import encoded


class EventFile:
    """One file of events in ``folder``. Each is on its way to disk at once: no thread, and a kill loses nothing.

    resumed: the last step that counts of the files already there; 0 clears the folder.
    """

    def __init__(self, folder: Path, resumed: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        if not resumed:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        path = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = path.open("wb")
        self._records = RecordWriter(self._file)
        self._event = Event
        self._write(Event(file_version="brain.Event:2"))
        if resumed:
            # Tells readers to forget what the killed run logged after its last checkpoint.
            self._write(Event(step=resumed + 1, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._summary(step, [{"tag": tag, "simple_value": value} for tag, value in values.items()])

    def text(self, step: int, tag: str, text: str) -> None:
        plugin = {"plugin_data": {"plugin_name": "text"}}
        tensor = {"dtype": "DT_STRING", "string_val": [text.encode()], "tensor_shape": {"dim": [{"size": 1}]}}
        self._summary(step, [{"tag": tag, "metadata": plugin, "tensor": tensor}])

    def gif(self, step: int, tag: str, frames: np.ndarray, fps: int) -> None:
        _, height, width, _ = frames.shape
        picture = encoded(frames, fps)
        image = {"height": height, "width": width, "colorspace": 3, "encoded_image_string": picture}
        self._summary(step, [{"tag": tag, "image": image}])

    def close(self) -> None:
        with naming(Path(self._file.name)):
            self._file.close()

    def _summary(self, step: int, values: list[dict[str, Any]]) -> None:
        self._write(self._event(step=step, summary={"value": values}))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        with naming(Path(self._file.name)):
            self._records.write(event.SerializeToString())
            self._records.flush()

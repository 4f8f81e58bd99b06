"""Numbers for TensorBoard, in files that name neither the machine nor its user."""

import time
from pathlib import Path

from moonshine_tune.core.files import disk_errors


class TensorBoardLogger:
    """Writes scalars to a folder that `tensorboard --logdir` reads.

    Not torch's writer: that one puts the host name into its file's name, and a thread of its own
    writes late, so that a full disk or a kill is noticed elsewhere.

    Args:
        folder: of this run; a resumed run adds a file.
        first_step: points from this step on in earlier files are hidden; None hides none.
    """

    def __init__(self, folder: Path, *, first_step: int | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder = folder
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Files are read in the order of their names.
            name = f"events.out.tfevents.{time.time_ns():020d}"
            self._file = (folder / name).open("wb")
        self._writer = RecordWriter(self._file)
        self._event = Event
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if first_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=first_step, session_log=start))

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add one point to each curve.

        Raises:
            MachineError: the disk is full.
        """
        event = self._event(wall_time=time.time(), step=step)
        for name, value in values.items():
            event.summary.value.add(tag=name, simple_value=value)
        self._write(event)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: object) -> None:
        with disk_errors(self._folder):
            self._writer.write(event.SerializeToString())  # type: ignore[attr-defined]
            self._writer.flush()

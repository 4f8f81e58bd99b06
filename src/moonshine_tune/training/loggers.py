"""The log of a run: metrics.jsonl, TensorBoard's files and, on request, a tracker."""

import importlib.util
import inspect
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.files import disk_errors
from moonshine_tune.core.nested import flatten
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.secrets import mask_values
from moonshine_tune.runs.folder import RunFolder

PROJECT = "moonshine-tune"


class RunLogger:
    """Writes each record to metrics.jsonl, TensorBoard and the tracker, and shows it.

    Args:
        resumed_after: step that a resumed run continues after. Later records are dropped: the run
            writes them again. None for a new run.

    Raises:
        RequestError: `settings.tracker` is not the name of a tracker.
        MachineError: the tracker's package is missing, or it does not start.
    """

    def __init__(
        self,
        run: RunFolder,
        settings: RunSettings,
        progress: Progress,
        *,
        resumed_after: int | None = None,
    ) -> None:
        self._run, self._progress = run, progress
        first_step = None
        if resumed_after is not None:
            run.cut_metrics(resumed_after)
            first_step = resumed_after + 1
        self._tensorboard = TensorBoardLogger(run.tensorboard_dir, first_step=first_step)
        self._tracker: Tracker | None = None
        if settings.tracker:
            flat = mask_values(dict(flatten(settings.model_dump(mode="json"))))
            self._tracker = Tracker(settings.tracker, run.path, flat, progress)

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        """Write one record. Numbers that are not finite become null: NaN is not JSON.

        Raises:
            MachineError: the disk is full.
        """
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        self._run.append_metrics({"step": step, **finite})
        numbers = {k: float(v) for k, v in finite.items() if isinstance(v, int | float)}
        self._tensorboard.log(step, {k.replace("_", "/", 1): v for k, v in numbers.items()})
        if self._tracker is not None:
            self._tracker.log(step, numbers)
        self._progress.figures(step, numbers)

    def close(self) -> None:
        """Close TensorBoard's file and finish the run at the tracker."""
        self._tensorboard.close()
        if self._tracker is not None:
            self._tracker.close()


class TensorBoardLogger:
    """Writes scalars to a folder that `tensorboard --logdir` reads.

    Not torch's writer: its file name contains the host name, and it writes late from a thread of
    its own, so a full disk or a kill goes unnoticed here.

    Args:
        folder: of this run; a resumed run adds a file.
        first_step: points from this step on in earlier files are hidden; None hides none.
    """

    def __init__(self, folder: Path, *, first_step: int | None = None) -> None:
        self._folder = folder
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Files are read in the order of their names.
            name = f"events.out.tfevents.{time.time_ns():020d}"
            self._file = (folder / name).open("wb")
        self._writer = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if first_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=first_step, session_log=start))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve.

        Raises:
            MachineError: the disk is full.
        """
        event = Event(wall_time=time.time(), step=step)
        for name, value in values.items():
            event.summary.value.add(tag=name, simple_value=value)
        self._write(event)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: Any) -> None:
        with disk_errors(self._folder):
            self._writer.write(event.SerializeToString())
            self._writer.flush()


class Tracker:
    """One run at a tracker that Accelerate supports: wandb, mlflow, trackio, comet_ml, …

    If the tracker fails during the run, the run continues without it and reports that once.

    Args:
        name: as Accelerate has it.
        folder: the run folder; trackers that write files write them below it.
        settings: shown beside the curves, by dotted name.

    Raises:
        RequestError: no tracker has this name.
        MachineError: its package is missing, or it does not start.
    """

    def __init__(
        self, name: str, folder: Path, settings: Mapping[str, Any], progress: Progress
    ) -> None:
        known = {
            str(getattr(key, "value", key)): kind for key, kind in LOGGER_TYPE_TO_CLASS.items()
        }
        if name not in known:
            raise RequestError(
                f"no tracker is called {name!r}", hint=f"one of: {', '.join(sorted(known))}"
            )
        if importlib.util.find_spec(name) is None:
            raise MachineError(f"the tracker {name} is not installed", hint=f"pip install {name}")
        options = {}
        if "logging_dir" in inspect.signature(known[name].__init__).parameters:
            options["logging_dir"] = str(folder / "tracker")
        self._name, self._progress, self._is_broken = name, progress, False
        try:
            self._tracker = known[name](PROJECT, **options)
            if hasattr(self._tracker, "start"):
                self._tracker.start()
            self._tracker.store_init_configuration(
                {key: value if isinstance(value, bool | int | float) else str(value)
                 for key, value in settings.items()}
            )  # fmt: skip
        except Exception as error:
            # Accounts, addresses, networks: each tracker has its own errors.
            raise MachineError(
                f"the tracker {name} does not start: {type(error).__name__}: {error}",
                hint=f"log in to {name}, or train without: --set tracker=null",
            ) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send one point of each curve."""
        self._call("log", dict(values), step=step)

    def close(self) -> None:
        """Finish the run there."""
        self._call("finish")

    def _call(self, method: str, *arguments: Any, **options: Any) -> None:
        if self._is_broken:
            return
        try:
            getattr(self._tracker, method)(*arguments, **options)
        except Exception as error:
            self._is_broken = True
            self._progress.say(
                f"the tracker {self._name} failed ({type(error).__name__}: {error}); the run "
                "continues without it, and metrics.jsonl has everything"
            )

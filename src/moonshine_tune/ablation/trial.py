"""One trial: a normal run in its folder, watched for its scores, ended with an outcome.

It runs in a process of its own, so that memory is whole again after each trial and a trial that
crashes takes nothing with it. It knows no database: scores and the outcome go through a pipe.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from moonshine_tune.ablation.latency import measure_latency, read_latency
from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.core.errors import TuneError
from moonshine_tune.core.progress import Progress, SilentProgress, Stage
from moonshine_tune.runs.folder import RunFolder

WEIGHTS_FILE = "adapter_model.safetensors"
_DONE = ("finished", "early stop")
# A trial that was told to stop still ends its step and saves; its folder is free after that.
_WAIT_FOR_FOLDER_S = 120.0


class TrainFunction(Protocol):
    """What trains: `training.run.train`, or anything that leaves such a run folder behind."""

    def __call__(
        self, resolved: ResolvedSettings, out: Path, progress: Progress, *, resume: bool = False
    ) -> Any: ...


# Told a step and its dev WER; answers whether the trial should stop there.
Judge = Callable[[int, float], bool]


@dataclass(frozen=True)
class TrialJob:
    """What a trial process is given. `lock` keeps a second process out of the folder.

    `times_export`: the exported files are to be timed against the base's too.
    """

    number: int
    settings: ResolvedSettings
    folder: Path
    log: Path
    lock: Path
    threads: int = 0
    times_export: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        kind: `finished`, `pruned`, `failed` or `interrupted`.
        figures: what it came to; WER in percent, losses in points, sizes in MB, times in seconds.
        error: of a failed one, what happened.
    """

    kind: str
    figures: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def run_trial(job: TrialJob, train: TrainFunction, judge: Judge) -> Outcome:
    """Train one trial; goes on where an earlier try of the same settings stopped.

    An error of the training is an outcome, not an error of the search.
    """
    run = RunFolder(job.folder)
    try:
        with FileLock(job.lock, timeout=_WAIT_FOR_FOLDER_S), _LogProgress(job, judge) as progress:
            state = _state_of(job)
            if state == "done":
                return _finished(job, run, progress)
            if state == "new" and job.folder.exists():
                shutil.rmtree(job.folder)
            train(job.settings, job.folder, progress, resume=state == "begun")
            if run.read_record().get("status") not in _DONE:
                return Outcome("interrupted")
            return _finished(job, run, progress)
    except _PrunedError as pruned:
        _mark(run, "pruned")
        return Outcome("pruned", {"dev_wer": pruned.dev_wer, "steps": pruned.step})
    except KeyboardInterrupt:
        return Outcome("interrupted")
    except Timeout:
        return Outcome("failed", error=f"another process holds {job.folder.name}")
    except Exception as error:
        text = _describe(error)
        _mark(run, "failed", text)
        _log_trace(job.log)
        return Outcome("failed", error=text)


def _finished(job: TrialJob, run: RunFolder, progress: Progress) -> Outcome:
    if job.times_export:
        measure_latency(run, job.settings.settings, progress)
    return Outcome("finished", figures_of(run))


def figures_of(run: RunFolder) -> dict[str, Any]:
    """What a finished run came to, read from its folder."""
    result = run.read_record()["result"]
    base, best = result["baseline"], result["best"]
    before, after = base["canary_wer"], best["canary_wer"]
    loss = None if before is None or after is None else round(after - before, 4)
    weights = run.adapter_dir / WEIGHTS_FILE
    return {
        "dev_wer": round(best["dev_wer"], 4),
        "base_dev_wer": round(base["dev_wer"], 4),
        "canary_wer": None if after is None else round(after, 4),
        "canary_loss": loss,
        "canary_held": result["canary_held"],
        "latency": read_latency(run),
        "strength": best["strength"],
        "best_step": best["step"],
        "steps": result["steps"],
        "adapter_mb": round(weights.stat().st_size / 1e6, 3) if weights.is_file() else 0.0,
        "train_seconds": result["train_seconds"],
        "seconds": result["seconds"],
        "peak_memory_mb": result["peak_memory_mb"],
    }


def child_main(connection: Connection, job: TrialJob, train: TrainFunction | None) -> None:
    """The whole life of a trial process: train, send the outcome, end.

    Args:
        train: None for the real one, which is imported here: only this process loads torch.
    """
    # Ctrl-C reaches the search alone, which then asks each trial to stop, once.
    with suppress(OSError):
        os.setsid()
    _stop_when_orphaned()
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("a", encoding="utf-8") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    apply_environment_defaults()
    if job.threads:
        # Trials side by side that each use all cores only stand in each other's way.
        os.environ.setdefault("OMP_NUM_THREADS", str(job.threads))
    outcome = Outcome("interrupted")
    try:
        if train is None:
            from moonshine_tune.training.run import train as real_train

            train = real_train

        def judge(step: int, dev_wer: float) -> bool:
            try:
                connection.send(("score", step, dev_wer))
                return bool(connection.recv())
            except (EOFError, OSError):
                # The search has gone: as if it had asked to stop. The folder holds everything.
                raise KeyboardInterrupt from None

        outcome = run_trial(job, train, judge)
    except KeyboardInterrupt:
        pass
    with suppress(OSError):
        connection.send(("outcome", outcome))
    connection.close()


def _stop_when_orphaned() -> None:
    """Ask this process to stop once the search that started it is gone."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def _state_of(job: TrialJob) -> str:
    """`done`, `begun` (can be resumed) or `new`, by what an earlier try left in the folder."""
    run = RunFolder(job.folder)
    if not run.record_path.is_file():
        return "new"
    try:
        record = run.read_record()
    except TuneError:
        return "new"
    if record.get("settings") != job.settings.settings.model_dump(mode="json"):
        return "new"
    if record.get("status") in _DONE and "result" in record:
        return "done"
    resumable = record.get("status") in ("running", "interrupted")
    return "begun" if resumable and run.state_dir.is_dir() else "new"


def _mark(run: RunFolder, status: str, error: str = "") -> None:
    """Write into the run folder how it ended, where it got that far."""
    if run.record_path.is_file():
        with suppress(TuneError, OSError):
            run.update_record(status=status, **({"error": error} if error else {}))


def _describe(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return f"out of memory: {text or type(error).__name__}"
    if isinstance(error, TuneError):
        return str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _log_trace(log: Path) -> None:
    import traceback

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        traceback.print_exception(*sys.exc_info(), file=file)


class _PrunedError(Exception):
    """Raised from inside the progress that training reports to: everything is saved by then."""

    def __init__(self, step: int, dev_wer: float) -> None:
        super().__init__(f"stopped at step {step}")
        self.step, self.dev_wer = step, dev_wer


class _LogProgress(SilentProgress):
    """Progress into the trial's log, which also watches the run's scores and may end it."""

    def __init__(self, job: TrialJob, judge: Judge) -> None:
        self._job, self._judge = job, judge
        self._metrics = RunFolder(job.folder).metrics_path
        self._begun = time.monotonic()
        self._read = 0
        self._told = 0

    def __enter__(self) -> "_LogProgress":
        self._job.log.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._job.log.open("a", encoding="utf-8")
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def say(self, text: str) -> None:
        """One line of the log; a new dev score in the metrics is passed on to the judge."""
        self._file.write(f"{time.monotonic() - self._begun:8.1f} s  {text}\n")
        self._file.flush()
        for step, dev_wer in self._new_scores():
            if self._judge(step, dev_wer):
                raise _PrunedError(step, dev_wer)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """A stage that only its name is known of."""
        self.say(f"{name}: {total}")
        yield Stage()

    def _new_scores(self) -> Iterator[tuple[int, float]]:
        """Dev scores written since the last look: step and WER."""
        if not self._metrics.is_file():
            return
        if self._metrics.stat().st_size < self._read:
            # A resumed run cut the lines that it writes again.
            self._read = 0
        with self._metrics.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                with suppress(ValueError):
                    record = json.loads(line)
                    step = record.get("step", 0)
                    if step > self._told and record.get("dev_wer") is not None:
                        self._told = step
                        yield step, float(record["dev_wer"])

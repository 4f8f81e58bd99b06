"""One trial: a normal run in its folder, watched for its scores, ended with an outcome.

It runs in a process of its own, so that all memory is free again after each trial and a crash ends
only that trial. It does not open the database: scores and the outcome go through a pipe.
"""

import os
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, TextIO

from filelock import FileLock

from moonshine_tune.ablation.latency import measure_latency, read_latency
from moonshine_tune.ablation.study import Outcome, ReportScore
from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.core.errors import TuneError
from moonshine_tune.core.json_text import parse_json_object
from moonshine_tune.core.progress import Progress, SilentProgress, Stage
from moonshine_tune.core.secrets import mask_secrets
from moonshine_tune.core.signals import interrupt_on_signals
from moonshine_tune.core.text import first_line, printable
from moonshine_tune.models.files import ADAPTER_WEIGHTS_FILE
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.records import RunRecord

_DONE = ("finished", "early stop")


class TrainFunction(Protocol):
    """What trains: `training.run.train`, or anything that leaves such a run folder behind."""

    def __call__(
        self, resolved: ResolvedSettings, out: Path, progress: Progress, *, resume: bool = False
    ) -> Any: ...


@dataclass(frozen=True)
class TrialJob:
    """What a trial process gets.

    Attributes:
        lock: keeps a second process out of the folder.
        threads: of torch; 0 for its own choice.
        measures_latency: whether the exported files are timed against the base's too.
    """

    settings: ResolvedSettings
    folder: Path
    log: Path
    lock: Path
    threads: int = 0
    measures_latency: bool = False


def run_trial(job: TrialJob, train: TrainFunction | None, report_score: ReportScore) -> Outcome:
    """Train one trial; continue where an earlier try of the same settings stopped.

    An error of the training is an outcome, not an error of the search.

    Args:
        train: None for the real training, which is imported here.
    """
    run = RunFolder(job.folder)
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("a", encoding="utf-8") as log:
        try:
            # A trial whose search was killed still ends its step and saves: wait for it.
            with FileLock(job.lock):
                return _train(job, run, train, _TrialProgress(run, log, report_score))
        except _PrunedError as pruned:
            _mark(run, "pruned")
            return Outcome("pruned", {"dev_wer": pruned.dev_wer, "steps": pruned.step})
        except KeyboardInterrupt:
            return Outcome("interrupted", error="interrupted")
        except Exception as error:
            text = _described(error)
            _mark(run, "failed", error=text)
            traceback.print_exception(error, file=log)
            return Outcome("failed", error=text)


def _train(
    job: TrialJob, run: RunFolder, train: TrainFunction | None, progress: Progress
) -> Outcome:
    record = _record_of(run, job.settings)
    is_done = record.status in _DONE and not record.result.is_empty
    is_resumable = record.status in ("running", "interrupted") and run.state_dir.is_dir()
    if not is_done:
        if job.folder.exists() and not is_resumable:
            shutil.rmtree(job.folder)
        if train is None:
            # Here, so that only the process of a trial loads torch.
            from moonshine_tune.training.run import train as real_train

            train = real_train
        train(job.settings, job.folder, progress, resume=is_resumable)
        if run.read_record().status not in _DONE:
            return Outcome("interrupted", error="interrupted")
    if job.measures_latency:
        measure_latency(run, job.settings.settings, progress)
    return Outcome("finished", figures_of(run))


def _record_of(run: RunFolder, settings: ResolvedSettings) -> RunRecord:
    """The record of an earlier try; empty where there is none with the same settings."""
    try:
        record = run.read_record()
    except TuneError:
        return RunRecord()
    is_same = record.settings == settings.settings.model_dump(mode="json")
    return record if is_same else RunRecord()


def figures_of(run: RunFolder) -> dict[str, Any]:
    """The figures of a finished run, read from its folder."""
    result = run.read_record().result.to_json()
    base, best = result["baseline"], result["best"]
    before, after = base["canary_wer"], best["canary_wer"]
    loss = None if before is None or after is None else round(after - before, 4)
    weights = run.adapter_dir / ADAPTER_WEIGHTS_FILE
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


def trial_process(connection: Connection, job: TrialJob, train: TrainFunction | None) -> None:
    """The main function of a trial process: train, send the outcome, end."""
    # Ctrl-C reaches the search alone, which then asks each trial to stop, once.
    with suppress(OSError):
        os.setsid()
    _stop_with_parent()
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("a", encoding="utf-8") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    apply_environment_defaults()
    if job.threads:
        # Trials side by side that each use all cores slow each other down.
        os.environ.setdefault("OMP_NUM_THREADS", str(job.threads))

    def report_score(step: int, dev_wer: float) -> bool:
        try:
            connection.send((step, dev_wer))
            return bool(connection.recv())
        except (EOFError, OSError):
            # The search has ended: stop as if it had asked to. The folder holds everything.
            raise KeyboardInterrupt from None

    try:
        # A signal that does not come from the search ends it as carefully.
        with interrupt_on_signals():
            outcome = run_trial(job, train, report_score)
    except KeyboardInterrupt:
        outcome = Outcome("interrupted", error="interrupted")
    with suppress(OSError):
        connection.send(outcome)
    connection.close()


def _stop_with_parent() -> None:
    """Interrupt this process once the search that started it has ended."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def _mark(run: RunFolder, status: str, **content: str) -> None:
    """Write into the run folder how it ended, where it got that far."""
    if run.record_path.is_file():
        with suppress(TuneError, OSError):
            run.update_record(status=status, **content)


def _described(error: Exception) -> str:
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return f"out of memory: {first_line(error)}"
    if isinstance(error, TuneError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"


class _PrunedError(Exception):
    """Raised out of the progress that the training reports to, when everything is saved."""

    def __init__(self, step: int, dev_wer: float) -> None:
        super().__init__(f"stopped at step {step}")
        self.step, self.dev_wer = step, dev_wer


class _TrialProgress(SilentProgress):
    """Progress into the trial's log. Reports the new dev scores of the run."""

    def __init__(self, run: RunFolder, log: TextIO, report_score: ReportScore) -> None:
        self._metrics, self._log, self._report_score = run.metrics_path, log, report_score
        self._start_time = time.monotonic()
        self._read_bytes = 0
        self._last_step = 0

    def say(self, text: str) -> None:
        """Write one line; raises `_PrunedError` where a new score ends the trial."""
        shown = printable(mask_secrets(text))
        self._log.write(f"{time.monotonic() - self._start_time:8.1f} s  {shown}\n")
        self._log.flush()
        for step, dev_wer in self._new_scores():
            if self._report_score(step, dev_wer):
                raise _PrunedError(step, dev_wer)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """Write the name of the stage alone."""
        self.say(f"{name}: {total}")
        yield Stage()

    def _new_scores(self) -> Iterator[tuple[int, float]]:
        """Step and WER of the dev scores that were written since the last call."""
        if not self._metrics.is_file():
            return
        if self._metrics.stat().st_size < self._read_bytes:
            # A resumed run has cut the lines that it writes again.
            self._read_bytes = 0
        with self._metrics.open("rb") as file:
            file.seek(self._read_bytes)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read_bytes += len(line)
                with suppress(ValueError):
                    record = parse_json_object(line.decode())
                    step = record.get("step", 0)
                    if step > self._last_step and record.get("dev_wer") is not None:
                        self._last_step = step
                        yield step, float(record["dev_wer"])

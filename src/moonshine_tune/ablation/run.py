"""Searching settings: trials in processes of their own, results in a database, nothing lost.

Each worker is a thread that takes a trial from the study, starts a process that trains it in a run
folder, and passes its scores to the pruner. Only the search talks to the database.
"""

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from moonshine_tune.ablation.folder import Ablation
from moonshine_tune.ablation.request import AblateRequest, prepare_ablation
from moonshine_tune.ablation.space import Scalar
from moonshine_tune.ablation.study import (
    AblationStudy,
    Outcome,
    ReportScore,
    TrialSummary,
    storage_errors,
)
from moonshine_tune.ablation.trial import TrainFunction, TrialJob, run_trial, trial_process
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import write_json_atomic
from moonshine_tune.core.locks import work_together
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.scratch import remove_leftovers
from moonshine_tune.core.signals import GracefulInterrupt
from moonshine_tune.runs.records import rank_trials
from moonshine_tune.runs.summary import SEARCH_LOCK

_TICK_S = 0.5
# A small space is used up when so many draws in a row had settings that were trained before.
_MAX_REPEATS = 20
_SAME_FAILURES = 3
# What a trial that was asked to stop may take to end its step, or its score, and save.
_STOP_S = 180.0


@dataclass(frozen=True)
class AblationResult:
    """The result of a search.

    Attributes:
        stopped: `finished`, `time is up`, or `interrupted` (the same command continues).
        best: number of the trial with the lowest dev WER among those that keep the canary within
            its bound; None where none is finished.
        counts: trials by state.
    """

    path: Path
    stopped: str
    trials: tuple[TrialSummary, ...]
    best: int | None
    counts: dict[str, int]
    seconds: float


def run_ablation(
    request: AblateRequest, progress: Progress, *, train: TrainFunction | None = None
) -> AblationResult:
    """Start or continue a search; every trial is a run folder in `out/trials`.

    Args:
        train: what trains a trial; None for `training.run.train`.

    Raises:
        RequestError, ProblemsError: wrong input, another search in the folder, or the first trials
            all failed for the same reason.
        MachineError: the database cannot be used.
    """
    start_time = time.monotonic()
    ablation = prepare_ablation(request, progress)
    for folder in (ablation.path, ablation.path / "trials"):
        remove_leftovers(folder)
    url = ablation.database_url(request.storage)
    with storage_errors(url), work_together(ablation.path / SEARCH_LOCK):
        study = AblationStudy(ablation, url)
        try:
            stopped = _Search(ablation, study, request, progress, train).run()
            trials = study.records()
        finally:
            study.close()
    records = [trial.to_record() for trial in trials]
    write_json_atomic(ablation.path / "trials.json", [record.to_json() for record in records])
    return AblationResult(
        path=ablation.path,
        stopped=stopped,
        trials=trials,
        best=next((record.number for record in rank_trials(records)), None),
        counts=dict(Counter(trial.state for trial in trials)),
        seconds=round(time.monotonic() - start_time, 1),
    )


class _Search:
    """The workers of one process on a search."""

    def __init__(
        self,
        ablation: Ablation,
        study: AblationStudy,
        request: AblateRequest,
        progress: Progress,
        train: TrainFunction | None,
    ) -> None:
        self._ablation, self._study, self._request = ablation, study, request
        self._progress, self._train = progress, train
        self._start_time = time.monotonic()
        self._interrupt = GracefulInterrupt()
        self._has_failed = self._ends_at_once = False
        self._repeats = 0
        self._shown = 0
        self._lock = threading.Lock()

    def run(self) -> str:
        """Work until no trial is left, time is up or a stop was asked for; why it ended."""
        num_queued = self._study.wait_for_heartbeats(self._progress)
        num_ended = sum(record.has_ended for record in self._study.records())
        if num_queued or num_ended:
            self._progress.say(
                f"continuing {self._ablation.path}: {num_ended} trials have ended, "
                f"{num_queued} were interrupted"
            )
        limit, minutes = self._ablation.record.trials, self._request.minutes
        name, total = (
            ("trials", limit) if limit else ("search, seconds", round((minutes or 0) * 60))
        )
        workers = self._request.workers
        with self._progress.stage(name, total) as stage, self._interrupt:
            self._stage = stage
            self._advance()
            if workers <= 1:
                # In the main thread: a second Ctrl-C can interrupt what it waits for.
                self._work()
            else:
                with ThreadPoolExecutor(workers) as pool:
                    try:
                        for future in [pool.submit(self._work) for _ in range(workers)]:
                            future.result()
                    except KeyboardInterrupt:
                        # The second Ctrl-C reaches this thread alone; the others wait for trials.
                        self._ends_at_once = True
                        raise
        if self._interrupt.wanted:
            return "interrupted"
        if self._time_is_up() and self._study.num_open() != 0:
            return "time is up"
        return "finished"

    def _work(self) -> None:
        """Train one trial after another until nothing is left."""
        try:
            while self._may_begin():
                record = self._study.run_next(self._attempt)
                if record is not None:
                    self._report(record)
        except BaseException:
            # The other workers stop too.
            self._has_failed = True
            raise

    def _may_begin(self) -> bool:
        if self._is_stopping() or self._time_is_up() or self._repeats >= _MAX_REPEATS:
            return False
        self._study.take_up_stale()
        return self._study.num_open() != 0

    def _is_stopping(self) -> bool:
        return self._interrupt.wanted or self._has_failed

    def _time_is_up(self) -> bool:
        minutes = self._request.minutes
        return minutes is not None and time.monotonic() - self._start_time > minutes * 60

    def _attempt(
        self, number: int, params: Mapping[str, Scalar], report_score: ReportScore
    ) -> Outcome:
        """Train one trial, here or in a process of its own."""
        try:
            settings = self._ablation.trial_settings(number, params)
        except ProblemsError as error:
            return Outcome("failed", error="; ".join(error.problems))
        workers, path = self._request.workers, self._ablation.path
        job = TrialJob(
            settings=settings,
            folder=self._ablation.trial_folder(number),
            log=path / "logs" / f"{number:04d}.log",
            lock=path / "locks" / f"trial-{number:04d}.lock",
            threads=max(_num_cores() // workers, 1) if workers > 1 else 0,
            measures_latency="latency" in self._ablation.record.objectives,
        )
        self._progress.say(f"trial {number} begins: {shown_params(params)}")
        if workers:
            return self._run_process(number, job, report_score)
        outcome = run_trial(job, self._train, report_score)
        self._interrupt.wanted |= outcome.kind == "interrupted"
        return outcome

    def _run_process(self, number: int, job: TrialJob, report_score: ReportScore) -> Outcome:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=trial_process, args=(theirs, job, self._train))
        process.start()
        theirs.close()
        is_asked = False
        try:
            while True:
                if self._ends_at_once:
                    raise KeyboardInterrupt
                if self._is_stopping() and not is_asked:
                    is_asked = True
                    _interrupt(process)
                    self._progress.say(f"trial {number} ends its step and saves")
                if not self._ablation.record.trials:
                    self._advance()
                if not ours.poll(_TICK_S):
                    continue
                message: Any = ours.recv()
                if not isinstance(message, Outcome):
                    ours.send(report_score(*message))
                elif message.kind == "interrupted" and not is_asked:
                    return Outcome("crashed", error="its process was interrupted")
                else:
                    return message
        except (EOFError, BrokenPipeError, ConnectionResetError):
            process.join()
            return Outcome("interrupted" if is_asked else "crashed", error=_death_of(process))
        except BaseException:
            _interrupt(process)
            raise
        finally:
            # A trial that waits for an answer gets none and stops.
            ours.close()
            process.join(_STOP_S)
            process.kill()

    def _report(self, record: TrialSummary) -> None:
        """One line for people on how a trial ended."""
        figures = record.figures
        if record.repeats:
            text = f"the settings of {record.remark.removeprefix('as ')}"
        elif record.state == "finished":
            text = f"{shown_figures(figures)}, {figures['seconds']:.0f} s"
        elif record.state == "pruned":
            text = (
                f"stopped at step {figures['steps']}, dev WER {figures['dev_wer']:.2f} is above "
                "the median"
            )
        elif record.state == "failed":
            text = f"failed: {record.remark}"
        elif record.state == "waiting":
            text = f"{record.remark}; it continues where it stopped"
        else:
            text = "another worker has taken it over"
        self._progress.say(f"trial {record.number}: {text}")
        self._repeats = self._repeats + 1 if record.repeats else 0
        self._advance()
        self._check_failures()

    def _check_failures(self) -> None:
        """Give up where the first trials have all failed for the same reason."""
        ended = [record for record in self._study.records() if record.has_ended]
        # Folders of trials in a message have numbers of their own.
        reasons = {(record.state, re.sub(r"\d+", "", record.remark)) for record in ended}
        if len(ended) >= _SAME_FAILURES and len(reasons) == 1 and ended[0].state == "failed":
            logs = self._ablation.path / "logs"
            raise RequestError(
                f"the first {len(ended)} trials all failed: {ended[0].remark}",
                where=self._ablation.path,
                hint=f"look at {logs}, fix the cause, and choose another --out",
            )

    def _advance(self) -> None:
        """Move the bar to the trials that have ended, or to the time that is spent."""
        with self._lock:
            if self._ablation.record.trials:
                done = sum(record.has_ended for record in self._study.records())
            else:
                done = round(time.monotonic() - self._start_time)
            if done > self._shown:
                self._stage.advance(done - self._shown)
                self._shown = done


def _interrupt(process: BaseProcess) -> None:
    if process.pid and process.is_alive():
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)


def _death_of(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code == -signal.SIGKILL:
        return "its process was killed: the system may have run out of memory"
    if code < 0:
        return f"its process died of signal {-code}"
    return f"the worker exited without a result (exit code {code})"


def shown_params(params: Mapping[str, Any]) -> str:
    """The point of a trial in one line."""
    return ", ".join(f"{name}={shown_value(value)}" for name, value in params.items())


def shown_value(value: object) -> str:
    """A value of a dimension as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_figures(figures: Mapping[str, Any]) -> str:
    """The main figures of a trial in one line."""
    loss = figures.get("canary_loss")
    canary = "" if loss is None else f", canary {loss:+.2f} points"
    return f"dev WER {figures['dev_wer']:.2f}{canary}"


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

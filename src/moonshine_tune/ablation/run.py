"""Searching settings: trials in processes of their own, results in a database, nothing lost.

The search claims a trial, starts a process that trains it in a run folder, passes its scores to
the pruner, and writes down how it ended. Only this process talks to the database.
"""

import os
import re
import signal
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from moonshine_tune.ablation.folder import Ablation, storage_url
from moonshine_tune.ablation.request import AblateRequest, prepare_ablation
from moonshine_tune.ablation.storage import HEARTBEAT_S, storage_errors
from moonshine_tune.ablation.study import Claim, TrialBook, TrialRecord
from moonshine_tune.ablation.trial import (
    Outcome,
    TrainFunction,
    TrialJob,
    child_main,
    run_trial,
)
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import write_json_atomic
from moonshine_tune.core.progress import Progress, Stage
from moonshine_tune.core.signals import GracefulInterrupt

_TICK_S = 0.5
# A small space is used up when so many draws in a row were trained before.
_TWINS_IN_A_ROW = 20
_ALIKE = 3
# What a trial that was asked to stop may take to end its step, or its score, and save.
_STOP_S = 180.0


@dataclass(frozen=True)
class AblationResult:
    """What a search came to.

    Attributes:
        stopped: `finished`, `time is up`, or `interrupted` (the same command continues).
        best: number of the trial with the lowest dev WER among those that hold the canary; None
            where none is finished.
        counts: trials by state.
    """

    path: Path
    stopped: str
    trials: tuple[TrialRecord, ...]
    best: int | None
    counts: dict[str, int]
    seconds: float


@dataclass
class _Running:
    claim: Claim
    process: BaseProcess
    begun: float
    asked: bool = False


def run_ablation(
    request: AblateRequest, progress: Progress, *, train: TrainFunction | None = None
) -> AblationResult:
    """Search, or go on with a search; every trial is a run folder in `out/trials`.

    Args:
        train: what trains a trial; None for `training.run.train`.

    Raises:
        RequestError, ProblemsError: wrong input, another search in the folder, or the first trials
            all failed for the same reason.
        MachineError: the database cannot be used.
    """
    begun = time.monotonic()
    ablation = prepare_ablation(request)
    url = storage_url(ablation, request.storage)
    with storage_errors(url):
        book = TrialBook(
            url,
            ablation.plan(),
            ablation.locks,
            owner=uuid.uuid4().hex[:12],
            shared=ablation.storage is not None,
        )
        try:
            search = _Search(ablation, book, request, progress, train)
            stopped = search.run()
            records = book.records()
        finally:
            with suppress(Exception):
                book.close()
    write_json_atomic(ablation.path / "trials.json", [asdict(record) for record in records])
    best = best_trial(records)
    counts: dict[str, int] = {}
    for record in records:
        counts[record.state] = counts.get(record.state, 0) + 1
    seconds = round(time.monotonic() - begun, 1)
    return AblationResult(
        ablation.path, stopped, records, best.number if best else None, counts, seconds
    )


def best_trial(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Lowest dev WER among the finished trials that hold the canary; else among all finished."""
    done = [record for record in records if record.state == "finished"]
    return min(
        done,
        key=lambda r: (not r.figures.get("canary_held", True), r.figures["dev_wer"], r.number),
        default=None,
    )


class _Search:
    """One process's work on a search."""

    def __init__(
        self,
        ablation: Ablation,
        book: TrialBook,
        request: AblateRequest,
        progress: Progress,
        train: TrainFunction | None,
    ) -> None:
        self._ablation, self._book, self._request = ablation, book, request
        self._progress, self._train = progress, train
        self._running: dict[Connection, _Running] = {}
        self._begun = self._ticked = time.monotonic()
        self._twins = 0
        self._used_up = False
        self._shown = 0

    def run(self) -> str:
        """Work until nothing is left, time is up or a stop was asked for; why it ended."""
        waiting = self._book.reap()
        known = [r for r in self._book.records() if r.state in ("finished", "pruned", "failed")]
        if waiting or known:
            self._progress.say(
                f"going on with {self._ablation.path}: {len(known)} trials are done, "
                f"{waiting} whose process died are tried again"
            )
        limit, minutes = self._ablation.trials, self._request.minutes
        name, total = (
            ("trials", limit) if limit else ("search, seconds", round((minutes or 0) * 60))
        )
        with self._progress.stage(name, total) as stage, GracefulInterrupt() as stop:
            try:
                self._advance(stage)
                return self._work(stage, stop)
            finally:
                self._end_all()

    def _work(self, stage: Stage, stop: GracefulInterrupt) -> str:
        while True:
            if stop.wanted:
                self._ask_to_stop()
            else:
                self._begin_more(stop)
            if not self._running:
                break
            for connection in wait(list(self._running), timeout=_TICK_S):
                if isinstance(connection, Connection):
                    self._listen(connection, stop)
            self._tick()
            self._advance(stage)
        self._advance(stage)
        if stop.wanted:
            return "interrupted"
        if self._time_is_up() and self._book.num_open(self._ablation.trials) != 0:
            return "time is up"
        return "finished"

    def _begin_more(self, stop: GracefulInterrupt) -> None:
        """Claim and start trials until all workers are busy or nothing is left."""
        while len(self._running) < max(self._request.workers, 1):
            if stop.wanted or self._used_up or self._time_is_up():
                return
            claim = self._book.claim(self._ablation.trials)
            if claim is None:
                return
            twin = self._book.twin_of(claim)
            if twin is not None:
                self._book.finish(claim, twin.figures, same_as=twin.number)
                self._progress.say(f"trial {claim.number}: the settings of trial {twin.number}")
                self._twins += 1
                self._used_up = self._twins >= _TWINS_IN_A_ROW
                continue
            self._twins = 0
            self._begin(claim, stop)

    def _begin(self, claim: Claim, stop: GracefulInterrupt) -> None:
        try:
            settings = self._ablation.trial_settings(claim.number, claim.params)
        except ProblemsError as error:
            self._book.fail(claim, "; ".join(error.problems))
            self._progress.say(f"trial {claim.number}: {error.problems[0]}")
            self._check_alike()
            return
        workers = self._request.workers
        path = self._ablation.path
        job = TrialJob(
            number=claim.number,
            settings=settings,
            folder=self._ablation.trial_folder(claim.number),
            log=path / "logs" / f"{claim.number:04d}.log",
            lock=self._ablation.locks / f"trial-{claim.number:04d}.lock",
            threads=max(_cores() // workers, 1) if workers > 1 else 0,
            times_export="latency" in self._ablation.objectives,
        )
        self._progress.say(f"trial {claim.number} begins: {shown_params(claim.params)}")
        if workers == 0:
            self._run_here(claim, job, stop)
            return
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=child_main, args=(theirs, job, self._train))
        process.start()
        theirs.close()
        self._running[ours] = _Running(claim, process, time.monotonic())

    def _run_here(self, claim: Claim, job: TrialJob, stop: GracefulInterrupt) -> None:
        train = self._train
        if train is None:
            from moonshine_tune.training.run import train as real_train

            train = real_train
        begun = time.monotonic()
        outcome = run_trial(
            job, train, lambda step, dev_wer: self._book.report(claim, step, dev_wer)
        )
        stop.wanted = stop.wanted or outcome.kind == "interrupted"
        self._write_down(claim, outcome, time.monotonic() - begun, stop)

    def _listen(self, connection: Connection, stop: GracefulInterrupt) -> None:
        """Take one message of a trial process, or notice its death."""
        item = self._running[connection]
        try:
            message: Any = connection.recv()
        except (EOFError, OSError):
            self._forget(connection)
            self._write_down_death(item, stop)
            return
        if message[0] == "score":
            with suppress(BrokenPipeError):
                connection.send(self._book.report(item.claim, message[1], message[2]))
            return
        self._forget(connection)
        self._write_down(item.claim, message[1], time.monotonic() - item.begun, stop)

    def _write_down(
        self, claim: Claim, outcome: Outcome, seconds: float, stop: GracefulInterrupt
    ) -> None:
        """Into the database, and a line for people."""
        what = f"trial {claim.number}"
        if outcome.kind == "finished":
            kept = self._book.finish(claim, outcome.figures)
            text = shown_figures(outcome.figures)
            lost = "" if kept else " (another machine had taken it over; that one counts)"
            self._progress.say(f"{what}: {text}, {seconds:.0f} s{lost}")
        elif outcome.kind == "pruned":
            self._book.prune(claim, outcome.figures)
            figures = outcome.figures
            self._progress.say(
                f"{what}: stopped at step {figures['steps']}, dev WER {figures['dev_wer']:.2f} is "
                "above the median"
            )
        elif outcome.kind == "interrupted":
            self._book.give_back(claim, "it was interrupted", crashed=not stop.wanted)
            self._progress.say(f"{what}: interrupted; it goes on when the search does")
        else:
            self._book.fail(claim, outcome.error)
            self._progress.say(f"{what}: failed: {outcome.error}")
            self._check_alike()

    def _write_down_death(self, item: _Running, stop: GracefulInterrupt) -> None:
        code = item.process.exitcode or 0
        if code == -signal.SIGKILL:
            why = "its process was killed: the system may have run out of memory"
        elif code < 0:
            why = f"its process died of signal {-code}"
        else:
            why = f"its process ended without a word (exit code {code})"
        again = self._book.give_back(item.claim, why, crashed=not stop.wanted)
        self._progress.say(f"trial {item.claim.number}: {why}{'; tried again' if again else ''}")

    def _check_alike(self) -> None:
        """Give up where the first trials have all failed for the very same reason."""
        ended = [r for r in self._book.records() if r.state in ("finished", "pruned", "failed")]
        # Folders of trials in a message have numbers of their own.
        reasons = {re.sub(r"\d+", "", record.remark) for record in ended}
        if len(ended) < _ALIKE or len(reasons) > 1 or any(r.state != "failed" for r in ended):
            return
        raise RequestError(
            f"the first {len(ended)} trials all failed: {ended[0].remark}",
            where=self._ablation.path,
            hint=f"look at {self._ablation.path / 'logs'}, mend it, and choose another --out",
        )

    def _time_is_up(self) -> bool:
        minutes = self._request.minutes
        return minutes is not None and time.monotonic() - self._begun > minutes * 60

    def _tick(self) -> None:
        """Now and then: say that our trials live, and look for others that do not."""
        now = time.monotonic()
        if now - self._ticked > HEARTBEAT_S:
            self._ticked = now
            for item in self._running.values():
                self._book.beat(item.claim.trial)
            self._book.reap()

    def _advance(self, stage: Stage) -> None:
        """Move the bar to the trials that are done, or to the time that is spent."""
        if self._ablation.trials:
            ended = ("finished", "pruned", "failed")
            done = sum(record.state in ended for record in self._book.records())
        else:
            done = round(time.monotonic() - self._begun)
        if done > self._shown:
            stage.advance(done - self._shown)
            self._shown = done

    def _forget(self, connection: Connection) -> None:
        item = self._running.pop(connection)
        connection.close()
        item.process.join()

    def _ask_to_stop(self) -> None:
        for item in self._running.values():
            if not item.asked and item.process.pid:
                item.asked = True
                with suppress(ProcessLookupError):
                    os.kill(item.process.pid, signal.SIGINT)
                self._progress.say(f"trial {item.claim.number} ends its step and saves")

    def _end_all(self) -> None:
        """Leave no process behind, whatever happened: first ask, then insist."""
        self._ask_to_stop()
        deadline = time.monotonic() + _STOP_S
        for connection in list(self._running):
            item = self._running[connection]
            # A trial that waits for an answer must see that none will come.
            connection.close()
            item.process.join(max(deadline - time.monotonic(), 0))
            if item.process.is_alive():
                item.process.kill()
                item.process.join()
        self._running.clear()


def shown_params(params: Any) -> str:
    """The point of a trial in one line."""
    parts = []
    for name, value in params.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        parts.append(f"{name}={text}")
    return ", ".join(parts)


def shown_figures(figures: Any) -> str:
    """What a trial came to in one line."""
    loss = figures.get("canary_loss")
    canary = "" if loss is None else f", canary {loss:+.2f}"
    return f"dev WER {figures['dev_wer']:.2f}{canary}"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

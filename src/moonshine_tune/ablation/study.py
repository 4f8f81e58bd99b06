"""The trials of an ablation: an Optuna study in a database.

Optuna hands out the trials and queues again those whose heartbeat has stopped, so any number of
processes and machines can work on one study. A trial has a number from 1, which it keeps when it is
tried again; in Optuna each try is a trial of its own, linked to the first one.
"""

import copy
import random
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL, make_url

from moonshine_tune.ablation.folder import Ablation
from moonshine_tune.ablation.space import Scalar
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.secrets import mask_secrets
from moonshine_tune.core.text import first_line
from moonshine_tune.runs.records import TrialRecord

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("none", "median")

# Heartbeat interval and grace period. The price of a short grace period is work done twice when a
# machine sleeps; of a long one, waiting. The processes of one machine sleep together.
_ONE_MACHINE_S = (3, 12)
_MANY_MACHINES_S = (30, 300)
_MAX_CRASHES = 1
_MAX_RETRIES = 20
# No median can be trusted before this many trials have been scored at the same step.
_PRUNE_AFTER_TRIALS = 4
# Of two processes that find an empty database, both make its tables and one is refused: its next
# try finds them.
_PAUSES_S = (0.2, 0.5, 1.0, 2.0)
_MADE_TWICE = (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError)
# User attribute with Optuna's number of the trial. Optuna copies it to the next try, where it is
# wrong until that one has recorded its first heartbeat.
_ATTEMPT = "attempt"
_STATES = {
    TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running", TrialState.WAITING: "waiting",
}  # fmt: skip

# Optuna warns of each option that may still change, of heartbeats that it does not record itself,
# and of a trial that is tried again with the constraint that it has.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used")
warnings.filterwarnings("ignore", "The constraint value is ignored")


@dataclass(frozen=True)
class Outcome:
    """How the training of a trial ended.

    Attributes:
        kind: `finished`, `pruned`, `failed`, `interrupted` (it continues with the search) or
            `crashed` (its process died).
        figures: the results; WER in percent, losses in points, sizes in MB, times in seconds.
        error: why there is no result.
    """

    kind: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class TrialSummary:
    """One trial as it is in the database.

    Attributes:
        state: `finished`, `pruned`, `failed`, `running` or `waiting`; where a search is shown,
            `stopped` for a running trial without a process.
        figures: the results (`OBJECTIVES` and more); empty until it ends.
        remark: why there is no result, or which trial had the same settings before.
    """

    number: int
    state: str
    params: Mapping[str, Any]
    figures: Mapping[str, Any]
    remark: str = ""

    def to_record(self) -> TrialRecord:
        """The trial as it is written into trials.json."""
        return TrialRecord.model_validate(asdict(self))

    @property
    def has_ended(self) -> bool:
        """Whether it is neither running nor waiting."""
        return self.state in ("finished", "pruned", "failed")

    @property
    def repeats(self) -> bool:
        """Whether it has the result of an earlier trial with the same settings."""
        return self.remark.startswith("as trial ")


# Takes a step and its dev WER; returns whether the trial should stop there.
ReportScore = Callable[[int, float], bool]
# Trains the trial of a number and a point.
Attempt = Callable[[int, Mapping[str, Scalar], ReportScore], Outcome]


class AblationStudy:
    """The study of one search. Several threads may work on it.

    Args:
        url: the database; the SQLite file of the folder, or any URL that SQLAlchemy knows.

    Raises:
        RequestError: the study of this name has other objectives.
        MachineError: the database cannot be used.
    """

    def __init__(self, ablation: Ablation, url: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._ablation = ablation
        interval, self.grace_s = _MANY_MACHINES_S if ablation.is_shared else _ONE_MACHINE_S
        self._retry = RetryHeartbeatStaleTrialCallback(max_retry=_MAX_RETRIES)
        self._storage = _open_storage(url, interval, self.grace_s, self._retry)
        self._claim_lock = _claim_lock(url)
        with storage_errors(url):
            self._study = self._open_study()
        if len(self._study.directions) != len(ablation.record.objectives):
            raise RequestError(
                f"the study {ablation.record.study} has other objectives",
                hint="start another one in the same database with --study NAME",
            )

    def _open_study(self) -> optuna.Study:
        """The study; of several processes that start at once, one makes it."""
        ablation = self._ablation
        options: dict[str, Any] = {
            "study_name": ablation.record.study,
            "storage": self._storage,
            "sampler": _SeededSampler(ablation),
            "pruner": optuna.pruners.MedianPruner(n_startup_trials=_PRUNE_AFTER_TRIALS),
        }
        try:
            study = optuna.create_study(
                directions=["minimize"] * len(ablation.record.objectives), **options
            )
        except optuna.exceptions.DuplicatedStudyError:
            return optuna.load_study(**options)
        if ablation.starting_point is not None and ablation.record.sampler != "grid":
            study.enqueue_trial(ablation.starting_point)
        return study

    def close(self) -> None:
        """Close the connections to the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def num_open(self) -> int | None:
        """Trials that can still begin; None where there is no limit."""
        if self._ablation.record.trials is None:
            return None
        numbers = trial_numbers(self._trials())
        waiting = self._trials(TrialState.WAITING)
        started = len(set(numbers.values())) - sum(_first_try(trial) is None for trial in waiting)
        return self._num_retries() + max(self._ablation.record.trials - started, 0)

    def take_up_stale(self) -> None:
        """Queue again the trials whose worker has died."""
        with self._claim_lock:
            optuna.storages.fail_stale_trials(self._study)
            # A worker that dies between Optuna's claim and its first heartbeat leaves a trial that
            # never gets stale. Version 0.1 recorded no heartbeat on one machine.
            for trial in self._trials(TrialState.RUNNING):
                age = datetime.now() - (trial.datetime_start or datetime.now())
                is_old = age.total_seconds() > self.grace_s
                if is_old and trial.user_attrs.get(_ATTEMPT) != trial.number:
                    # Another machine may be quicker.
                    with suppress(ValueError, UpdateFinishedTrialError):
                        self._study.tell(trial.number, state=TrialState.FAIL)
                        self._retry(self._study, copy.deepcopy(trial))

    def wait_for_heartbeats(self, progress: Progress) -> int:
        """On one machine, wait until each running trial has had time for a heartbeat.

        A search that continues after a kill takes up the killed trial first, and so draws the
        same trials as one that was never killed. Many machines do not wait for each other.

        Returns:
            The number of trials that are queued again.
        """
        deadline = time.monotonic() + self.grace_s + 1
        self.take_up_stale()
        running = self._trials(TrialState.RUNNING)
        if running and not self._ablation.is_shared:
            progress.say(
                f"{len(running)} trials are recorded as running: waiting {self.grace_s} s for a "
                "heartbeat"
            )
            while self._trials(TrialState.RUNNING) and time.monotonic() < deadline:
                time.sleep(0.2)
                self.take_up_stale()
        return self._num_retries()

    def run_next(self, attempt: Attempt) -> TrialSummary | None:
        """Take the next trial, let `attempt` train it, and record how it ended.

        Not by `Study.optimize`, which hides an error of the database behind one of its own.

        Returns:
            The trial as it is recorded then; None where there was none left.
        """
        with self._claim_lock:
            trial = self._study.ask()
        limit = self._ablation.record.trials
        number = trial_numbers(self._trials())[trial.number]
        if limit is not None and number > limit:
            # Another worker took the last one between the question and Optuna's answer.
            trial.set_user_attr("surplus", True)
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        outcome = Outcome("interrupted", error="interrupted")
        # Raised where another worker has taken it over meanwhile: its result counts.
        with suppress(UpdateFinishedTrialError):
            try:
                with self._heartbeat(trial):
                    outcome = self._train(trial, number, attempt)
            finally:
                self._tell(trial, outcome)
        return next(record for record in self.records() if record.number == number)

    @contextmanager
    def _heartbeat(self, trial: optuna.Trial) -> Iterator[None]:
        """Record a heartbeat of a trial now and at each interval."""
        has_ended = threading.Event()

        def record() -> None:
            while not has_ended.wait(self._storage.heartbeat_interval):
                # The next heartbeat may reach the database again.
                with suppress(optuna.exceptions.StorageInternalError):
                    self._storage.record_heartbeat(trial._trial_id)

        self._storage.record_heartbeat(trial._trial_id)
        trial.set_user_attr(_ATTEMPT, trial.number)
        thread = threading.Thread(target=record, daemon=True)
        thread.start()
        try:
            yield
        finally:
            has_ended.set()
            thread.join()

    def _train(self, trial: optuna.Trial, number: int, attempt: Attempt) -> Outcome:
        params = {item.name: item.suggest(trial) for item in self._ablation.space.dimensions}
        for record in self.records():
            if record.state == "finished" and dict(record.params) == params:
                trial.set_user_attr("same_as", record.number)
                return Outcome("finished", record.figures)

        def report_score(step: int, dev_wer: float) -> bool:
            if self._ablation.record.pruner == "none":
                return False
            trial.report(dev_wer, step)
            return trial.should_prune()

        return attempt(number, params, report_score)

    def _tell(self, trial: optuna.Trial, outcome: Outcome) -> None:
        """Write an outcome into a trial, and queue it again where that is worth it.

        Raises:
            UpdateFinishedTrialError: it has ended already.
        """
        figures, values = outcome.figures, None
        trial.set_user_attr("figures", dict(figures))
        if outcome.kind in ("finished", "pruned"):
            loss, bound = figures.get("canary_loss"), self._ablation.settings.select.canary_bound
            trial.set_constraint("canary", 0.0 if loss is None else loss - bound)
        if outcome.kind == "finished":
            values = [float(figures[name]) for name in self._ablation.record.objectives]
        if outcome.error:
            trial.set_user_attr("error", mask_secrets(outcome.error))
        crashes = trial.user_attrs.get("crashes", 0) + (outcome.kind == "crashed")
        if outcome.kind == "crashed":
            trial.set_user_attr("crashes", crashes)
        states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        state = states.get(outcome.kind, TrialState.FAIL)
        ended = self._study.tell(trial, values, state=state, skip_if_finished=True)
        if outcome.kind in ("interrupted", "crashed") and crashes <= _MAX_CRASHES:
            self._retry(self._study, ended)

    def records(self) -> tuple[TrialSummary, ...]:
        """All trials by number; of a trial that was tried again, the last try."""
        trials = self._trials()
        numbers = trial_numbers(trials)
        latest = {numbers[trial.number]: trial for trial in trials if trial.number in numbers}
        return tuple(_record(number, latest[number]) for number in sorted(latest))

    def importances(self, objective: str) -> dict[str, float]:
        """How much of the spread of an objective each dimension explains, summing to 1.

        Empty where fewer than four trials are finished or nothing differs between them.
        """
        done = self._trials(TrialState.COMPLETE)
        values = {t.user_attrs.get("figures", {}).get(objective) for t in done}
        if len(done) < 4 or None in values or len(values) < 2:
            return {}
        with warnings.catch_warnings():
            # Optuna warns that lower values of the target count as better: they do.
            warnings.simplefilter("ignore")
            shares = optuna.importance.get_param_importances(
                self._study,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                target=lambda trial: float(trial.user_attrs["figures"][objective]),
            )
        return {name: round(float(value), 4) for name, value in shares.items()}

    def _num_retries(self) -> int:
        """Trials that wait for another try."""
        return sum(_first_try(trial) is not None for trial in self._trials(TrialState.WAITING))

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)


class _ThreadSampler(threading.local):
    """The sampler for the trial that a thread works on."""

    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler()


class _SeededSampler(optuna.samplers.BaseSampler):
    """Seeds the draws of each trial by its number: a search that was killed draws the trials of
    one that was not."""

    def __init__(self, ablation: Ablation) -> None:
        self._ablation = ablation
        self._points = list(ablation.space.grid()) if ablation.record.sampler == "grid" else []
        # A search over a grid that is cut short has seen all corners.
        random.Random(ablation.record.seed).shuffle(self._points)
        self._thread = _ThreadSampler()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        number = trial_numbers(study.get_trials(deepcopy=False))[trial.number]
        seed = zlib.crc32(f"{self._ablation.record.seed} {number - 1} ".encode())
        self._thread.sampler = self._seeded(number, seed)

    def _seeded(self, number: int, seed: int) -> optuna.samplers.BaseSampler:
        if self._ablation.record.sampler != "tpe":
            sampler = optuna.samplers.RandomSampler(seed=seed)
            if not self._points:
                return sampler
            point = self._points[(number - 1) % len(self._points)]
            return optuna.samplers.PartialFixedSampler(point, sampler)
        return optuna.samplers.TPESampler(
            seed=seed,
            multivariate=True,
            constant_liar=True,
            n_startup_trials=6,
        )

    def infer_relative_search_space(self, *args: Any) -> dict[str, BaseDistribution]:
        return self._thread.sampler.infer_relative_search_space(*args)

    def sample_relative(self, *args: Any) -> dict[str, Any]:
        return self._thread.sampler.sample_relative(*args)

    def sample_independent(self, *args: Any) -> Any:
        return self._thread.sampler.sample_independent(*args)

    def after_trial(self, *args: Any) -> None:
        self._thread.sampler.after_trial(*args)


def trial_numbers(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """The number from 1 of each Optuna trial; further tries have the number of the first one."""
    numbers: dict[int, int] = {}
    count = 0
    for trial in trials:
        first = _first_try(trial)
        if first is not None:
            numbers[trial.number] = numbers[first]
        elif "surplus" not in trial.user_attrs:
            count += 1
            numbers[trial.number] = count
    return numbers


def _first_try(trial: FrozenTrial) -> int | None:
    """Optuna's number of the trial that this one tries again; version 0.1 had its own record."""
    first = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.user_attrs.get("retry_of") if first is None else first


def _record(number: int, trial: FrozenTrial) -> TrialSummary:
    attributes = trial.user_attrs
    state = _STATES[trial.state]
    remark = f"as trial {attributes['same_as']}" if "same_as" in attributes else ""
    if state == "failed":
        remark = attributes.get("error", "worker lost (no heartbeat)")
    elif state == "waiting":
        remark = attributes.get("error", "")
    params = trial.params or trial.system_attrs.get("fixed_params", {})
    return TrialSummary(number, state, params, attributes.get("figures", {}), remark)


def without_password(url: str) -> str:
    """A database URL that may be written down.

    Raises:
        RequestError: it is no database URL.
    """
    parsed = _parsed(url)
    if "password" in parsed.query:
        parsed = parsed.update_query_dict({"password": "***"})
    return mask_secrets(parsed.render_as_string(hide_password=True).replace("%2A", "*"))


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except sqlalchemy.exc.ArgumentError as error:
        raise RequestError(
            "--storage is not a database URL",
            hint="such as postgresql+psycopg://user@host/database or sqlite:////path/trials.db",
        ) from error


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn an error of the database into a plain one."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = error.__cause__ or error
        cause = getattr(cause, "orig", None) or cause
        raise MachineError(
            f"the database of trials cannot be used: {mask_secrets(first_line(cause))}",
            where=without_password(url),
            hint="what was trained is in the trials folder; fix it and run the same command again",
        ) from error


def _claim_lock(url: str) -> AbstractContextManager[object]:
    """Makes Optuna's claim of a trial exclusive: SQLite has no locks of rows, which it relies on.

    Without it two workers can start the same waiting trial.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return FileLock(f"{parsed.database}.lock")
    return nullcontext()


def _open_storage(url: str, interval: int, grace: int, retry: Any) -> RDBStorage:
    parsed = _parsed(url)
    # Another process may hold the SQLite file for a moment: wait for it.
    waits = {"connect_args": {"timeout": 60}}
    options: dict[str, Any] = {
        "engine_kwargs": waits
        if parsed.get_backend_name() == "sqlite"
        else {"pool_pre_ping": True},
        "heartbeat_interval": interval,
        "grace_period": grace,
        "heartbeat_stale_trial_callback": retry,
    }
    try:
        with storage_errors(url):
            for pause in _PAUSES_S:
                try:
                    return RDBStorage(url, **options)
                except sqlalchemy.exc.DBAPIError as error:
                    # SQLite calls it an operational error, as it does a missing folder.
                    if not isinstance(error, _MADE_TWICE) and "already exists" not in str(error):
                        raise
                time.sleep(pause)
            return RDBStorage(url, **options)
    except ImportError as error:
        raise MachineError(
            f"the driver for {parsed.drivername} is not installed",
            hint='pip install "moonshine-tune[postgresql]", with postgresql+psycopg://…',
        ) from error

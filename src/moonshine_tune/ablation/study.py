"""The book of trials: an Optuna study in a database, with claims, retries and plain errors.

Trials are claimed, finished and retried by Optuna's own protocol, so that any number of processes
and machines can work on one study. A trial has a number from 1 that it keeps when it is retried;
in Optuna a retry is a new trial with the attribute `retry_of`.
"""

import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from moonshine_tune.ablation.sampling import (
    StudyPlan,
    originals,
    pruner_of,
    sampler_of,
    suggest,
    trial_numbers,
)
from moonshine_tune.ablation.space import Scalar
from moonshine_tune.ablation.storage import GRACE_S, open_storage, storage_errors
from moonshine_tune.core.errors import RequestError

_MAX_CRASHES = 1
_MAX_RETRIES = 20
_DIED = "its process died"


@dataclass(frozen=True)
class Claim:
    """A trial that this process has taken."""

    number: int
    params: Mapping[str, Scalar]
    trial: optuna.Trial


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the database knows it.

    Attributes:
        state: `finished`, `pruned`, `failed`, `running` or `waiting`.
        figures: what it came to (`OBJECTIVES` and more); empty until finished.
        remark: why it failed, or which trial it took its result from.
    """

    number: int
    state: str
    params: Mapping[str, Any]
    figures: Mapping[str, Any]
    remark: str = ""


_STATES = {
    TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running", TrialState.WAITING: "waiting",
}  # fmt: skip


class TrialBook:
    """The study of one search, seen by one process.

    Args:
        url: the database; the SQLite file of the folder, or any URL that SQLAlchemy knows.
        locks: folder for the lock that tells others on this machine that this process lives.
        owner: a name for this process that no other has; empty to only read.
        shared: whether other machines may work on it too.
    """

    def __init__(
        self, url: str, plan: StudyPlan, locks: Path, *, owner: str = "", shared: bool = False
    ) -> None:
        self.plan = plan
        self._locks, self._owner, self._shared = locks, owner, shared
        self._lock: FileLock | None = None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage = open_storage(url, self._on_stale if shared else None)
        with storage_errors(url):
            self._study, is_new = _open_study(plan, self._storage)
            if len(self._study.directions) != len(plan.objectives):
                raise RequestError(
                    f"the study {plan.name} has other objectives",
                    hint="start another one in the same database with --study NAME",
                )
            if owner:
                locks.mkdir(parents=True, exist_ok=True)
                self._lock = FileLock(_lock_of(locks, owner))
                self._lock.acquire()
                if is_new and plan.start is not None and plan.sampler != "grid":
                    self._study.enqueue_trial(dict(plan.start))

    def close(self) -> None:
        """Tell the others that this process has ended."""
        if self._lock is not None:
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self._storage.remove_session()
        self._storage.engine.dispose()

    def num_open(self, limit: int | None) -> int | None:
        """Trials that can still be claimed; None where there is no limit."""
        if limit is None:
            return None
        trials = self._trials()
        waiting = TrialState.WAITING
        retries = sum(t.state == waiting and "retry_of" in t.user_attrs for t in trials)
        begun = sum(t.state != waiting for t in originals(trials))
        return retries + max(limit - begun, 0)

    def claim(self, limit: int | None) -> Claim | None:
        """Take the next trial; None where all are taken.

        Args:
            limit: trials that may be begun in all; None for no limit.
        """
        if self.num_open(limit) == 0:
            return None
        with warnings.catch_warnings():
            # Optuna would rather beat the heart itself; `beat` does it here.
            warnings.simplefilter("ignore")
            self._reseed()
            trial = self._study.ask()
        trial.set_user_attr("owner", self._owner)
        self.beat(trial)
        numbers = trial_numbers(self._trials())
        number = numbers[trial.number]
        if limit is not None and number > limit:
            # Another process took the last one between the question and the claim.
            trial.set_user_attr("surplus", True)
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        params = {item.name: suggest(trial, item) for item in self.plan.space.dimensions}
        return Claim(number, params, trial)

    def twin_of(self, claim: Claim) -> TrialRecord | None:
        """A finished trial with the very same settings, whose result can be taken over."""
        for record in self.records():
            if record.state == "finished" and dict(record.params) == dict(claim.params):
                return record
        return None

    def beat(self, trial: optuna.Trial) -> None:
        """Say that a claimed trial is being worked on."""
        if self._shared:
            self._storage.record_heartbeat(self._id(trial.number))

    def report(self, claim: Claim, step: int, dev_wer: float) -> bool:
        """Note an intermediate score; whether the trial should stop there."""
        if self.plan.pruner == "none":
            return False
        claim.trial.report(dev_wer, step)
        return claim.trial.should_prune()

    def finish(self, claim: Claim, figures: Mapping[str, Any], *, same_as: int = 0) -> bool:
        """Write a result down; False where the trial was given to another process meanwhile."""
        values = [float(figures[name]) for name in self.plan.objectives]
        claim.trial.set_user_attr("figures", dict(figures))
        if same_as:
            claim.trial.set_user_attr("same_as", same_as)
        return self._tell(claim, TrialState.COMPLETE, values)

    def prune(self, claim: Claim, figures: Mapping[str, Any]) -> bool:
        """Write down that a trial was stopped early."""
        claim.trial.set_user_attr("figures", dict(figures))
        return self._tell(claim, TrialState.PRUNED, None)

    def fail(self, claim: Claim, error: str) -> None:
        """Write down that a trial failed, for good."""
        claim.trial.set_user_attr("error", error)
        self._tell(claim, TrialState.FAIL, None)

    def give_back(self, claim: Claim, error: str, *, crashed: bool) -> bool:
        """End a trial without a result and put it up again; False where that is not worth it.

        A trial that has crashed its process twice is not tried a third time.
        """
        claim.trial.set_user_attr("error", error)
        if not self._tell(claim, TrialState.FAIL, None):
            return True
        return self._retry(self._stored(claim), crashed=crashed)

    def reap(self) -> int:
        """Put up again the trials whose process has died; returns how many."""
        count = 0
        running = [t for t in self._trials() if t.state == TrialState.RUNNING]
        ended = {owner: self._has_ended(owner) for owner in {_owner_of(t) for t in running}}
        for found in running:
            dead = ended[_owner_of(found)] if _owner_of(found) else self._is_orphan(found)
            if dead:
                self._storage.set_trial_user_attr(self._id(found.number), "error", _DIED)
                if self._end(found) and self._retry(found, crashed=False):
                    count += 1
        if self._shared:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optuna.storages.fail_stale_trials(self._study)
        return count

    def records(self) -> tuple[TrialRecord, ...]:
        """All trials by number; of a retried one, the last try."""
        trials = self._trials()
        numbers = trial_numbers(trials)
        latest: dict[int, FrozenTrial] = {}
        for found in trials:
            if found.number in numbers:
                latest[numbers[found.number]] = found
        return tuple(_record(number, latest[number]) for number in sorted(latest))

    def importances(self, objective: str) -> dict[str, float]:
        """How much of the spread of an objective each dimension explains, summing to 1.

        Empty where fewer than four trials are finished or nothing differs between them.
        """
        done = [t for t in self._trials() if t.state == TrialState.COMPLETE]
        values = {t.user_attrs.get("figures", {}).get(objective) for t in done}
        if len(done) < 4 or None in values or len(values) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = optuna.importance.get_param_importances(
                self._study,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                target=lambda trial: float(trial.user_attrs["figures"][objective]),
            )
        return {name: round(float(value), 4) for name, value in found.items()}

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _reseed(self) -> None:
        """Random numbers of the next trial: by its number, so that a search that was killed goes on
        with the trials that an unbroken one has. Processes that share a study draw apart."""
        begun = sum(trial.state != TrialState.WAITING for trial in originals(self._trials()))
        salt = self._owner if self._shared else ""
        seed = zlib.crc32(f"{self.plan.seed} {begun} {salt}".encode())
        self._study.sampler = sampler_of(self.plan, seed)

    def _tell(self, claim: Claim, state: TrialState, values: Sequence[float] | None) -> bool:
        before = self._stored(claim)
        if before.state != TrialState.RUNNING:
            return False
        self._study.tell(claim.trial, values, state=state, skip_if_finished=True)
        return True

    def _end(self, found: FrozenTrial) -> bool:
        """Mark a running trial as failed; False where another process was quicker."""
        try:
            self._storage.set_trial_state_values(self._id(found.number), TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def _retry(self, found: FrozenTrial, *, crashed: bool) -> bool:
        known = found.user_attrs
        crashes, retries = known.get("crashes", 0) + crashed, known.get("retries", 0) + 1
        if crashes > _MAX_CRASHES or retries > _MAX_RETRIES:
            return False
        fixed = found.system_attrs.get("fixed_params", {})
        self._study.enqueue_trial(
            {**fixed, **found.params},
            user_attrs={
                "retry_of": found.number,
                "number": trial_numbers(self._trials())[found.number],
                "crashes": crashes,
                "retries": retries,
            },
        )
        return True

    def _on_stale(self, study: optuna.Study, found: FrozenTrial) -> None:
        del study
        self._retry(found, crashed=False)

    def _has_ended(self, owner: str) -> bool:
        """Whether a process is known to be gone. Of another machine only its heartbeat tells."""
        if not owner or owner == self._owner:
            return False
        if not _lock_of(self._locks, owner).exists():
            return not self._shared
        return _lock_is_free(self._locks, owner)

    def _is_orphan(self, found: FrozenTrial) -> bool:
        """Whether a trial's process died between its claim and its signature."""
        begun = found.datetime_start or datetime.now()
        old = (datetime.now() - begun).total_seconds() > GRACE_S
        return old or (not self._shared and not self._has_neighbour())

    def _has_neighbour(self) -> bool:
        """Whether another process works on this folder."""
        owners = [path.stem.removeprefix("owner-") for path in self._locks.glob("owner-*.lock")]
        return any(
            owner != self._owner and not _lock_is_free(self._locks, owner) for owner in owners
        )

    def _id(self, number: int) -> int:
        """The database's key of an Optuna trial."""
        study = self._storage.get_study_id_from_name(self.plan.name)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)

    def _stored(self, claim: Claim) -> FrozenTrial:
        return self._storage.get_trial(self._id(claim.trial.number))


def _open_study(plan: StudyPlan, storage: optuna.storages.RDBStorage) -> tuple[optuna.Study, bool]:
    """The study, and whether this process has made it: of several that begin at once, one does."""
    sampler, pruner = sampler_of(plan, 0), pruner_of(plan)
    directions = [optuna.study.StudyDirection.MINIMIZE] * len(plan.objectives)
    try:
        made = optuna.create_study(
            study_name=plan.name, storage=storage, directions=directions, sampler=sampler,
            pruner=pruner,
        )  # fmt: skip
    except optuna.exceptions.DuplicatedStudyError:
        found = optuna.load_study(
            study_name=plan.name, storage=storage, sampler=sampler, pruner=pruner
        )
        return found, False
    return made, True


def _record(number: int, found: FrozenTrial) -> TrialRecord:
    known = found.user_attrs
    state = _STATES[found.state]
    remark = f"as trial {known['same_as']}" if "same_as" in known else ""
    if state == "failed":
        remark = known.get("error", "its machine was not heard of any more")
    params = found.params or found.system_attrs.get("fixed_params", {})
    return TrialRecord(number, state, params, known.get("figures", {}), remark)


def _lock_of(folder: Path, owner: str) -> Path:
    return folder / f"owner-{owner}.lock"


def _lock_is_free(folder: Path, owner: str) -> bool:
    lock = FileLock(_lock_of(folder, owner))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def _owner_of(found: FrozenTrial) -> str:
    return str(found.user_attrs.get("owner", ""))

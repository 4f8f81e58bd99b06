"""The study behind a search: workers that die, are taken over, or share the last trial."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from tests.made_up_training import FakeTrain, wer_of
from tests.messages import Messages

from moonshine_tune.ablation.folder import Ablation, open_ablation
from moonshine_tune.ablation.request import AblateRequest
from moonshine_tune.ablation.results import Bounds, choose, show_ablation
from moonshine_tune.ablation.run import AblationResult, run_ablation
from moonshine_tune.ablation.study import AblationStudy
from moonshine_tune.core.errors import MachineError
from moonshine_tune.core.progress import Progress, SilentProgress

pytestmark = pytest.mark.filterwarnings(
    "ignore::optuna.exceptions.ExperimentalWarning",
    "ignore:Heartbeat of storage",
    "ignore:The constraint value",
)

Make = Callable[..., AblateRequest]


def _run(request: AblateRequest, train: Any, progress: Progress | None = None) -> AblationResult:
    return run_ablation(request, progress or SilentProgress(), train=train)


@contextmanager
def _study(ablation: Ablation) -> Iterator[AblationStudy]:
    study = AblationStudy(ablation, ablation.database_url(None))
    try:
        yield study
    finally:
        study.close()


def _die(ablation: Ablation, *, before_heartbeat: bool = False) -> dict[str, Any]:
    """Take the next trial as Optuna's loop does, and leave it: the point of the trial."""
    with _study(ablation) as study:
        trial = study._study.ask()
        if before_heartbeat:
            return {}
        study._storage.record_heartbeat(trial._trial_id)
        trial.set_user_attr("attempt", trial.number)
        return {item.name: item.suggest(trial) for item in ablation.space.dimensions}


def test_the_trials_of_a_dead_search_are_tried_again(request_of: Make) -> None:
    """As after a kill: two trials are running in the database and their process is gone."""
    request = request_of(trials=4)
    _run(request_of(trials=1), FakeTrain())
    ablation = open_ablation(request.out)
    points = {number: _die(ablation) for number in (2, 3)}
    assert {t.state for t in show_ablation(request.out).trials} == {"finished", "stopped"}
    train, progress = FakeTrain(), Messages()
    result = _run(request, train, progress)
    assert result.counts == {"finished": 4}
    assert {n: dict(result.trials[n - 1].params) for n in points} == points
    assert len(train.ran) == 3
    # On a slow machine their heartbeats are old already, and nothing has to be waited for.
    *waiting, resumed = progress.lines[: 1 + ("waiting" in progress.lines[0])]
    assert "1 trials have ended, 2 were interrupted" in resumed
    assert all("2 trials are recorded as running" in line for line in waiting)


def test_a_worker_that_dies_before_its_first_heartbeat_loses_nothing(request_of: Make) -> None:
    request = request_of(trials=3)
    unbroken = _run(request_of(trials=3, out=request.out.with_name("unbroken")), FakeTrain())
    _run(request_of(trials=1), FakeTrain())
    _die(open_ablation(request.out), before_heartbeat=True)
    result = _run(request, FakeTrain())
    assert result.counts == {"finished": 3}
    assert [trial.params for trial in result.trials] == [trial.params for trial in unbroken.trials]


def test_a_trial_that_ended_before_it_was_recorded_is_not_trained_again(request_of: Make) -> None:
    request = request_of(trials=3)
    _run(request_of(trials=1), FakeTrain())
    ablation = open_ablation(request.out)
    settings = ablation.trial_settings(2, _die(ablation))
    FakeTrain()(settings, ablation.trial_folder(2), SilentProgress())
    train = FakeTrain()
    result = _run(request, train)
    assert result.counts == {"finished": 3}
    assert len(train.ran) == 1
    assert result.trials[1].figures["dev_wer"] == pytest.approx(wer_of(settings), abs=1e-3)


def test_a_locked_database_loses_nothing(request_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result of a trial cannot be recorded; the next search finds it in its folder."""
    real = optuna.storages.RDBStorage.set_trial_state_values

    def locked(storage: Any, trial_id: int, state: TrialState, values: Any = None) -> bool:
        if state == TrialState.COMPLETE:
            raise optuna.exceptions.StorageInternalError("database is locked")
        return real(storage, trial_id, state, values)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages.RDBStorage, "set_trial_state_values", locked)
        with pytest.raises(MachineError, match="database is locked") as caught:
            _run(request_of(trials=2), FakeTrain())
    assert "run the same command again" in (caught.value.hint or "")
    train = FakeTrain()
    result = _run(request_of(trials=2), train)
    assert result.counts == {"finished": 2}
    assert len(train.ran) == 1


def test_a_living_search_keeps_its_trials(request_of: Make) -> None:
    """Longer than the grace period: its heartbeat says that it lives."""
    request, release = request_of(trials=2), threading.Event()
    _run(request_of(trials=1), FakeTrain())
    other = FakeTrain(lambda trial, step: release.wait(30) and None)
    thread = threading.Thread(target=_run, args=(request, other))
    thread.start()
    while not other.ran:
        time.sleep(0.01)
    train = FakeTrain()
    result = _run(replace(request, trials=3), train)
    assert len(train.ran) == 1
    assert result.counts == {"finished": 2, "running": 1}
    release.set()
    thread.join(30)
    assert [t.state for t in show_ablation(request.out).trials] == ["finished"] * 3
    assert len(other.ran) == 1


def test_a_trial_that_another_worker_takes_over_counts_once(request_of: Make) -> None:
    """A machine sleeps for longer than the grace period, wakes up and finishes its trial."""
    request = request_of(trials=3)

    def sleep(trial: int, step: int) -> None:
        if (trial, step) == (2, 50):
            with _study(open_ablation(request.out)) as study:
                study._study.tell(1, state=TrialState.FAIL)
                study._retry(study._study, study._study.trials[1])

    train, progress = FakeTrain(sleep), Messages()
    result = _run(request, train, progress)
    assert result.counts == {"finished": 3}
    assert [out.name for _, out, _ in train.ran] == ["0001", "0002", "0003"]


def test_one_worker_at_a_time_claims_a_trial(
    request_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite alone would hand a waiting trial to two workers that ask at the same moment."""
    ablation = open_ablation(_run(request_of(trials=1), FakeTrain()).path)
    real, claims = optuna.Study.ask, threading.Semaphore(1)

    def ask(study: optuna.Study) -> optuna.Trial:
        assert claims.acquire(blocking=False), "two workers claim at the same time"
        time.sleep(0.05)
        trial = real(study)
        claims.release()
        return trial

    monkeypatch.setattr(optuna.Study, "ask", ask)

    def work() -> None:
        with _study(ablation) as study:
            study.run_next(lambda *_: pytest.fail("there is nothing to train"))

    with ThreadPoolExecutor() as pool:
        for future in [pool.submit(work) for _ in range(3)]:
            future.result()


def test_two_workers_that_see_one_trial_left_run_one(request_of: Make) -> None:
    request = request_of(trials=2)
    _run(request_of(trials=1), FakeTrain())
    with _study(open_ablation(_run(request, FakeTrain()).path)) as late:
        assert late.num_open() == 0
        # As if it had looked before the other worker took the last trial.
        assert late.run_next(lambda *_: pytest.fail("there is nothing to train")) is None
    assert len(show_ablation(request.out).trials) == 2
    assert _run(request_of(trials=3), FakeTrain()).counts == {"finished": 3}


def test_a_study_of_version_0_1_is_read(request_of: Make) -> None:
    """Its retries were enqueued, with the trial that they repeat as a user attribute."""
    ablation = open_ablation(_run(request_of(trials=1), FakeTrain()).path)
    figures = {"dev_wer": 1.0, "canary_loss": 0.0, "canary_held": True, "adapter_mb": 1.0}
    with _study(ablation) as study:
        for rank, state, attributes in (
            (2, TrialState.FAIL, {"owner": "a"}),
            (2, TrialState.COMPLETE, {"retry_of": 1, "number": 2, "figures": figures}),
            (4, TrialState.RUNNING, {"owner": "a"}),
            (8, TrialState.FAIL, {"surplus": True}),
        ):
            point = {"adapter.rank": rank, "train.learning_rate": 2e-4}
            study._study.enqueue_trial(point)
            trial = study._study.ask()
            for item in ablation.space.dimensions:
                item.suggest(trial)
            for key, value in attributes.items():
                trial.set_user_attr(key, value)
            if state != TrialState.RUNNING:
                values = 1.0 if state == TrialState.COMPLETE else None
                study._study.tell(trial, values, state=state)
    view = show_ablation(ablation.path)
    assert [trial.state for trial in view.trials] == ["finished", "finished", "stopped"]
    assert choose(ablation.path, Bounds()).number == 2
    result = _run(request_of(trials=4), FakeTrain())
    assert result.counts == {"finished": 4}
    assert result.trials[2].params["adapter.rank"] == 4
    written = json.loads((ablation.path / "trials.json").read_text())
    assert [trial["number"] for trial in written] == [1, 2, 3, 4]

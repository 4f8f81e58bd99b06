"""The search itself, with a made-up training: no torch, no process."""

import json
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from tests.made_up_training import FakeTrain, wer_of
from tests.messages import Messages

from moonshine_tune.ablation.folder import open_ablation
from moonshine_tune.ablation.request import AblateRequest
from moonshine_tune.ablation.results import Bounds, choose, pareto_front, show_ablation
from moonshine_tune.ablation.run import AblationResult, run_ablation
from moonshine_tune.ablation.study import AblationStudy, TrialSummary
from moonshine_tune.audio.io import write_audio
from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.errors import (
    MachineError,
    NegativeAnswerError,
    ProblemsError,
    RequestError,
)
from moonshine_tune.core.files import write_json_atomic
from moonshine_tune.core.locks import work_together
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.summary import SEARCH_LOCK

_GRID = """
space:
  adapter.rank: [2, 4, 8]
  adapter.dropout: [0.0, 0.1]
"""


def _run(request: AblateRequest, train: Any, progress: Progress | None = None) -> AblationResult:
    return run_ablation(request, progress or SilentProgress(), train=train)


pytestmark = pytest.mark.filterwarnings(
    "ignore::optuna.exceptions.ExperimentalWarning", "ignore:Heartbeat of storage"
)

Make = Callable[..., AblateRequest]


def test_a_search_finds_the_best_and_begins_with_the_starting_settings(request_of: Make) -> None:
    train = FakeTrain()
    result = _run(request_of(trials=12), train)
    assert result.stopped == "finished"
    assert result.counts == {"finished": 12}
    first = train.ran[0][0].settings
    assert (first.adapter.rank, first.train.learning_rate) == (8, 5e-4)
    assert result.best == 1  # the optimum of the made-up training is the default
    folders = {out.name for _, out, _ in train.ran}
    assert folders == {f"{number:04d}" for number in range(1, 13)}
    third = result.trials[2]
    ran = train.ran[2][0]
    assert third.params["adapter.rank"] == ran.settings.adapter.rank
    assert third.figures["dev_wer"] == pytest.approx(wer_of(ran), abs=1e-3)
    assert third.figures["canary_loss"] == pytest.approx(ran.settings.adapter.rank / 10)
    assert ran.sources["adapter.rank"] == "trial 3"
    copy = json.loads((result.path / "trials.json").read_text())
    assert [item["number"] for item in copy] == list(range(1, 13))


def test_trials_differ_also_after_a_search_was_continued(request_of: Make) -> None:
    train = FakeTrain()
    for trials in (3, 6, 9):
        _run(request_of(trials=trials, sampler="random"), train)
    rates = [resolved.settings.train.learning_rate for resolved, _, _ in train.ran]
    assert len(set(rates)) == 9


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_that_was_cut_has_the_trials_of_an_unbroken_one(
    request_of: Make, tmp_path: Path, sampler: str
) -> None:
    """Continued after three trials, one of them started twice: a kill changes no draw."""
    unbroken = _run(request_of(trials=9, sampler=sampler, out=tmp_path / "unbroken"), FakeTrain())

    def act(trial: int, step: int) -> None:
        if trial == 4 and step == 50:
            raise KeyboardInterrupt

    cut = request_of(trials=9, sampler=sampler, out=tmp_path / "cut")
    _run(replace(cut, trials=2), FakeTrain())
    _run(cut, FakeTrain(act))
    result = _run(cut, FakeTrain())
    assert [trial.params for trial in result.trials] == [trial.params for trial in unbroken.trials]
    assert result.best == unbroken.best


def test_a_grid_runs_every_point_once(request_of: Make) -> None:
    train = FakeTrain()
    result = _run(request_of(_GRID, sampler="grid"), train)
    points = {(r.settings.adapter.rank, r.settings.adapter.dropout) for r, _, _ in train.ran}
    assert len(train.ran) == len(points) == 6
    assert result.counts == {"finished": 6}
    order = [r.settings.adapter.rank for r, _, _ in train.ran]
    assert order != sorted(order), "a grid that is cut short should have seen all corners"


def test_the_same_settings_are_not_trained_twice(request_of: Make) -> None:
    train = FakeTrain()
    space = "space:\n  adapter.rank: [4, 8]\n"
    result = _run(request_of(space, trials=6, sampler="random"), train)
    assert len(train.ran) == 2
    assert result.counts == {"finished": 6}
    taken = [trial for trial in result.trials if trial.remark]
    assert len(taken) == 4
    assert all(trial.remark in ("as trial 1", "as trial 2") for trial in taken[-1:])


def test_without_a_number_a_small_space_ends_when_it_is_used_up(request_of: Make) -> None:
    train = FakeTrain()
    space = "space:\n  adapter.rank: [4, 8]\n"
    _run(request_of(space, minutes=5.0, sampler="random"), train)
    assert len(train.ran) == 2


def test_a_crash_is_recorded_and_the_search_goes_on(request_of: Make) -> None:
    def act(trial: int, step: int) -> None:
        if trial == 2 and step == 50:
            raise ValueError("made up\nsecond line")
        if trial == 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    train, progress = FakeTrain(act), Messages()
    result = _run(request_of(trials=5), train, progress)
    assert result.counts == {"finished": 3, "failed": 2}
    remarks = {trial.number: trial.remark for trial in result.trials}
    assert remarks[2] == "ValueError: made up"
    assert remarks[3].startswith("out of memory: CUDA")
    assert len(train.ran) == 5, "a crashed trial is not tried again"
    record = RunFolder(result.path / "trials" / "0002").read_record()
    assert record.status == "failed"
    assert "Traceback" in (result.path / "logs" / "0002.log").read_text()
    assert any(line == "trial 2: failed: ValueError: made up" for line in progress.lines)


def test_trials_that_all_fail_alike_end_the_search(request_of: Make) -> None:
    train = FakeTrain()

    def broken(resolved: ResolvedSettings, out: Path, progress: Progress, *, resume: bool) -> None:
        train.ran.append((resolved, out, resume))
        raise RequestError("no such model", where=out)

    with pytest.raises(RequestError, match=r"the first 3 trials all failed: .*no such model"):
        _run(request_of(trials=12), broken)
    assert len(train.ran) == 3


def test_an_interrupted_search_goes_on_where_it_stopped(request_of: Make) -> None:
    def act(trial: int, step: int) -> None:
        if trial == 3 and step == 75:
            raise KeyboardInterrupt

    train = FakeTrain(act)
    stopped = _run(request_of(trials=5), train)
    assert stopped.stopped == "interrupted"
    assert stopped.counts == {"finished": 2, "waiting": 1}
    third = train.ran[2]
    again = FakeTrain()
    # The folder alone is enough.
    result = _run(AblateRequest(out=stopped.path, workers=0), again)
    assert result.stopped == "finished"
    assert result.counts == {"finished": 5}
    assert [trial.number for trial in result.trials] == [1, 2, 3, 4, 5]
    resolved, out, resumed = again.ran[0]
    assert resumed, "it continues from the saved state"
    assert out == third[1]
    assert resolved.settings == third[0].settings


def test_bad_trials_are_pruned_by_the_median_of_the_others(request_of: Make) -> None:
    train = FakeTrain()
    result = _run(request_of(trials=10, sampler="random", pruner="median", seed=3), train)
    pruned = [trial for trial in result.trials if trial.state == "pruned"]
    assert pruned
    for trial in pruned:
        run = RunFolder(result.path / "trials" / f"{trial.number:04d}")
        assert run.read_record().status == "pruned"
        last = run.read_metrics()[-1]
        assert last["step"] == trial.figures["steps"] < 100
        assert last["dev_wer"] == trial.figures["dev_wer"]
        # All curves of the made-up training are parallel, so that the ends rank as the scores do;
        # the median is that of the trials that were not stopped themselves.
        ends = [wer_of(resolved) for resolved, _, _ in train.ran[: trial.number]]
        finished = [item.number for item in result.trials if item.state == "finished"]
        assert ends[-1] >= median(ends[n - 1] for n in finished if n < trial.number)


def test_time_is_kept(request_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    train = FakeTrain(lambda trial, step: None)
    result = _run(request_of(minutes=1e-9), train)
    assert result.stopped == "time is up"
    assert result.best is None
    assert not train.ran


def test_test_data_is_refused_and_never_opened(request_of: Make, data: dict[str, str]) -> None:
    opened: list[str] = []
    watching = threading.Event()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not watching.is_set():
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    _run(request_of(trials=2), FakeTrain())
    watching.set()
    assert any(name.endswith("dev.jsonl") for name in opened)
    assert not any("test.jsonl" in name for name in opened)
    manifests = {"train": data["train"], "dev": data["test"]}
    with pytest.raises(RequestError, match="4 utterances of the dev manifest are marked as test"):
        _run(request_of(out=Path(data["test"]).parent / "x",
                        layers=(("flag", {"data": manifests}),)), FakeTrain())  # fmt: skip
    assert not (Path(data["test"]).parent / "x").exists()


def test_a_folder_holds_one_search(request_of: Make, data: dict[str, str]) -> None:
    _run(request_of(trials=2), FakeTrain())
    with pytest.raises(ProblemsError) as caught:
        _run(request_of(_GRID, sampler="grid", seed=5), FakeTrain())
    text = "\n".join(caught.value.problems)
    for expected in ("the search space is another", "--sampler was tpe and is now grid", "--seed"):
        assert expected in text
    other = {name: data[name] for name in ("train", "dev")} | {"dev": data["train"]}
    with pytest.raises(ProblemsError, match=r"data\.dev was .* and is now"):
        _run(request_of(layers=(("flag", {"data": other}),)), FakeTrain())
    Path(data["dev"]).write_text(Path(data["dev"]).read_text() + "\n{}\n".replace("{}", ""))
    with pytest.raises(ProblemsError, match="the dev manifest has changed"):
        _run(request_of(trials=2), FakeTrain())


def test_impossible_requests_are_refused_as_a_whole(request_of: Make, tmp_path: Path) -> None:
    with pytest.raises(ProblemsError) as caught:
        _run(
            request_of(sampler="magic", pruner="median", trials=0, steps=0, minutes=-1.0,
                       objectives=("dev_wer", "speed")),
            FakeTrain(),
        )  # fmt: skip
    text = "\n".join(caught.value.problems)
    for expected in ("magic", "speed", "--prune needs a single", "--trials 0", "--steps 0",
                     "--minutes -1"):  # fmt: skip
        assert expected in text
    with pytest.raises(ProblemsError, match=r"adapter\.rank is set by --set and varied"):
        _run(request_of(layers=(("--set", {"adapter": {"rank": 3}}),)), FakeTrain())
    with pytest.raises(RequestError, match="no train manifest"):
        _run(request_of(layers=()), FakeTrain())
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("dear")
    with pytest.raises(RequestError, match="not empty"):
        _run(request_of(out=full), FakeTrain())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "full", "space.yaml"]


@pytest.mark.parametrize(
    ("url", "kind", "expected"),
    [
        ("nonsense", RequestError, "not a database URL"),
        ("sqlite:////nowhere/at/all/trials.db", MachineError, "cannot be used"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/x", MachineError, ""),
        ("oracle+nothing://me@127.0.0.1/x", MachineError, ""),
    ],
)
def test_a_database_that_cannot_be_reached(
    request_of: Make, tmp_path: Path, url: str, kind: type[Exception], expected: str
) -> None:
    with pytest.raises(kind, match=expected) as caught:
        _run(request_of(storage=url), FakeTrain())
    assert "secret" not in str(caught.value)
    written = tmp_path / "ablation" / "ablation.json"
    assert not written.exists() or "secret" not in written.read_text()


def test_several_objectives(request_of: Make) -> None:
    result = _run(request_of(trials=8, objectives=("dev_wer", "canary_loss")), FakeTrain())
    view = show_ablation(result.path)
    assert view.objectives == ("dev_wer", "canary_loss")
    assert view.front
    front = [view.trials[number - 1] for number in view.front]
    for trial in view.trials:
        beaten = any(
            rival.figures["dev_wer"] <= trial.figures["dev_wer"]
            and rival.figures["canary_loss"] <= trial.figures["canary_loss"]
            and rival.figures != trial.figures
            for rival in view.trials
        )
        assert beaten != (trial in front)


def test_importances_name_what_mattered(request_of: Make) -> None:
    space = "space:\n  adapter.rank: [2, 8, 64]\n  train.weight_decay: {low: 0, high: 0.1}\n"
    result = _run(request_of(space, trials=25, sampler="random"), FakeTrain())
    shares = show_ablation(result.path, objectives=["dev_wer"]).importances["dev_wer"]
    assert shares["adapter.rank"] > 0.8
    assert sum(shares.values()) == pytest.approx(1, abs=0.01)


def test_choice_with_reason_and_settings_file(request_of: Make) -> None:
    from moonshine_tune.config.resolve import read_settings_file, resolve_settings

    train = FakeTrain()
    result = _run(request_of(trials=12), train)
    free = choose(result.path, Bounds())
    assert free.number == result.best == 1
    assert any("starting settings" in reason for reason in free.reasons)
    bound = choose(result.path, Bounds(max_canary=0.45))
    figures = result.trials[bound.number - 1].figures
    assert figures["canary_loss"] <= 0.45
    kept = [t for t in result.trials if t.figures["canary_loss"] <= 0.45]
    assert f"{len(kept)} of 12 finished trials keep to 0.45 points of canary WER" in bound.reasons
    assert figures["dev_wer"] <= min(t.figures["dev_wer"] for t in kept) + 0.25
    assert bound.against_start is not None
    assert bound.against_start.verdict == "worse"
    # The file gives back the very settings of the trial, manifests included.
    content = read_settings_file(bound.settings_file)
    again = resolve_settings([("file", content)]).settings
    wanted = train.ran[bound.number - 1][0].settings
    same = again.model_dump(exclude={"data"}) == wanted.model_dump(exclude={"data"})
    assert same
    assert again.data.train is not None
    assert again.data.train.resolve() == wanted.data.train
    text = bound.settings_file.read_text()
    assert str(result.path.parent) not in text, "paths are relative"
    assert "moonshine-tune train --config chosen.yaml" in text.splitlines()[1]


def test_latency_is_measured_for_the_choice_where_it_was_not_before(
    request_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 8 is best here; made slow, it must give way, and the reason says so."""
    measured: list[str] = []

    def measure(run: RunFolder, settings: Any, progress: Progress) -> float:
        measured.append(run.path.name)
        return 1.2 if settings.adapter.rank == 8 else 1.01

    monkeypatch.setattr("moonshine_tune.ablation.results.measure_latency", measure)
    result = _run(request_of(_GRID, sampler="grid"), FakeTrain())
    free = choose(result.path, Bounds())
    assert free.params["adapter.rank"] == 8 and not measured
    bound = choose(result.path, Bounds(max_latency=1.05))
    assert bound.params["adapter.rank"] == 4
    assert bound.figures["latency"] == 1.01
    assert "4 of 6 finished trials keep to 1.05 times the base's latency" in bound.reasons
    assert len(measured) == 6
    with pytest.raises(NegativeAnswerError, match="times the base's latency"):
        choose(result.path, Bounds(max_latency=1.0))


def test_latency_as_an_objective_is_measured_by_each_trial(
    request_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(run: RunFolder, settings: Any, progress: Progress) -> float:
        ratio = 1 + settings.adapter.rank / 100
        write_json_atomic(run.path / "latency.json", {"ratio": ratio})
        return float(ratio)

    monkeypatch.setattr("moonshine_tune.ablation.trial.measure_latency", measure)
    result = _run(request_of(trials=4, objectives=("dev_wer", "latency")), FakeTrain())
    for trial in result.trials:
        assert trial.figures["latency"] == 1 + trial.params["adapter.rank"] / 100
    # What was measured is not measured again: the real function would load a model.
    assert choose(result.path, Bounds(max_latency=1.17)).number


def test_no_choice_is_a_no(request_of: Make) -> None:
    result = _run(request_of(trials=4), FakeTrain())
    with pytest.raises(NegativeAnswerError, match=r"none of 4 finished trials keeps to 0.1 points"):
        choose(result.path, Bounds(max_canary=0.1))
    assert not (result.path / "chosen.yaml").exists()
    with pytest.raises(NegativeAnswerError, match="s of training"):
        choose(result.path, Bounds(max_seconds=0.5))
    with pytest.raises(RequestError, match="not the folder of an ablation"):
        choose(result.path / "trials", Bounds())


def test_pareto_front_of_equal_points() -> None:
    def trial(number: int, state: str = "finished", **figures: float) -> TrialSummary:
        return TrialSummary(number, state, {}, figures)

    trials = [trial(1, a=1, b=3), trial(2, a=1, b=3), trial(3, a=2, b=2), trial(4, a=2, b=3),
              trial(5, "pruned", a=0, b=0), trial(6, a=0)]  # fmt: skip
    assert pareto_front(trials, ("a", "b")) == (1, 2, 3)


def test_a_real_interrupt_between_trials(request_of: Make) -> None:
    """A signal that the trial does not handle: the trial finishes, no other begins."""
    train = FakeTrain(
        lambda trial, step: signal.raise_signal(signal.SIGINT) if (trial, step) == (2, 50) else None
    )
    result = _run(request_of(trials=5), train)
    assert result.stopped == "interrupted"
    assert len(train.ran) == 2
    assert result.counts == {"finished": 2}


def test_a_trial_of_a_dead_search_is_shown_as_stopped(request_of: Make) -> None:
    result = _run(request_of(trials=1), FakeTrain())
    ablation = open_ablation(result.path)
    study = AblationStudy(ablation, ablation.database_url(None))
    study._study.ask()
    study.close()
    assert [trial.state for trial in show_ablation(result.path).trials] == ["finished", "stopped"]
    with work_together(result.path / SEARCH_LOCK):
        states = [trial.state for trial in show_ablation(result.path).trials]
    assert states == ["finished", "running"]


def test_all_trials_replay_what_is_made_once(
    request_of: Make, data: dict[str, str], tmp_path: Path
) -> None:
    """A folder becomes a manifest before the first trial; a word continues the same search."""
    speech = tmp_path / "general"
    speech.mkdir()
    write_audio(speech / "a.wav", np.full(32_000, 0.1, np.float32))
    manifests = {name: data[name] for name in ("train", "dev", "canary")}
    layers = (("flag", {"data": {**manifests, "replay": str(speech)}}),)
    train = FakeTrain()
    _run(request_of(layers=layers, trials=2), train)
    replayed = {ran[0].settings.data.replay for ran in train.ran}
    (manifest,) = replayed
    assert manifest.name == "manifest.jsonl" and manifest.is_file()
    record = open_ablation(tmp_path / "ablation").record
    assert set(record.data) == {"train", "dev", "canary", "replay"}
    assert _run(request_of(layers=layers, trials=3), train).counts == {"finished": 3}
    none = (("flag", {"data": {**manifests, "replay": "none"}}),)
    with pytest.raises(ProblemsError, match=r"data\.replay was"):
        _run(request_of(layers=none, trials=3), train)


def test_a_search_does_not_go_on_with_other_sound(request_of: Make) -> None:
    result = _run(request_of(trials=1), FakeTrain())
    line = {"manifest": "train", "use": "train", "id": "train-0", "fingerprint": "of another"}
    path = result.path / "trials" / "0001" / "recordings.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(ProblemsError, match="1 of 1 recordings are not the ones"):
        _run(request_of(trials=2), FakeTrain())
    path.unlink()
    _run(request_of(trials=2), FakeTrain())

"""A resumed run is the same run: its record, the chosen adapter, its files, its verdict."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.training_runs import Training, resolve

from moonshine_tune.config.resolve import resolve_settings
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.runs.manage import list_runs, show_run
from moonshine_tune.training.result import TrainResult
from moonshine_tune.training.run import train
from moonshine_tune.training.selection import Candidate, SelectionRule

pytestmark = pytest.mark.usefixtures("one_thread")

_CHOSEN = ("canary",)


def _record(out: Path) -> Any:
    return json.loads((out / "run.json").read_text())


def _adapter(out: Path) -> Any:
    return json.loads((out / "adapter" / "selection.json").read_text())


def _resume(out: Path, progress: Progress | None = None, **changes: Any) -> TrainResult:
    """As `train --resume --set …` does: the run's own settings, and changes."""
    resolved = resolve_settings([("run.json", _record(out)["settings"])])
    nested = resolve(resolved.settings.model_dump(mode="json"), **changes)
    given = {key: "--set" for key in nested.sources if key.replace(".", "__") in changes}
    sources = dict.fromkeys(resolved.sources, "run.json") | given
    return train(replace(nested, sources=sources), out, progress or SilentProgress(), resume=True)


@pytest.fixture(scope="module")
def finished(
    training: Training, tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> Path:
    """A finished run of 4 steps: the best is of step 2, the choice its strength 0.6. Read only."""
    out = tmp_path_factory.mktemp("finished") / "run"
    settings = training.settings(
        *_CHOSEN, train__steps=4, select__every_steps=2, select__canary_bound=200.0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SelectionRule, "choose", _weakest)
        patch.setattr(SelectionRule, "is_better", lambda _, candidate, best: best is None)
        train(settings, out, SilentProgress())
    return out


def _weakest(_: SelectionRule, candidates: Sequence[Candidate]) -> Candidate:
    return min(candidates, key=lambda item: item.strength)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


# --- the record


def test_a_leg_with_other_settings_is_recorded_and_continues(run: Path, training: Training) -> None:
    first = _record(run)
    assert "legs" not in first
    watcher = training.Watcher.interrupting(5)
    # Two stops: the second resume names nothing, and continues to the new end.
    assert _resume(run, watcher, train__steps=7).stopped == "interrupted"
    assert any("resumed at step 5 with other settings" in line for line in watcher.messages)
    assert _record(run)["settings"]["train"]["steps"] == 7
    assert (_resume(run).stopped, _record(run)["result"]["steps"]) == ("finished", 7)
    record = _record(run)
    assert [leg["first_step"] for leg in record["legs"]] == [1, 5]
    assert [leg["settings"]["train"]["steps"] for leg in record["legs"]] == [4, 7]
    assert record["legs"][0]["settings"] == first["settings"]
    assert record["legs"][1]["changed"] == {"train.steps": [4, 7]}
    assert record["sources"]["train.steps"] == "--set"
    assert record["sources"]["adapter.rank"] == first["sources"]["adapter.rank"]
    assert show_run(run).chosen["train.steps"] == (7, "--set")
    assert "train.steps 4 → 7" in show_run(run).remarks[-1]


def test_a_resume_without_changes_has_no_leg(run: Path) -> None:
    _resume(run)
    assert "legs" not in _record(run)


def test_a_leg_that_is_killed_is_replaced_by_the_next(run: Path, training: Training) -> None:
    class KilledError(BaseException):
        pass

    def die() -> None:
        raise KilledError

    for steps in (8, 6):
        with pytest.raises(KilledError):
            _resume(run, training.Watcher(5, die), train__steps=steps)
    record = _record(run)
    assert [(leg["first_step"], leg["settings"]["train"]["steps"]) for leg in record["legs"]] == [
        (1, 4), (5, 6)
    ]  # fmt: skip
    assert record["settings"]["train"]["steps"] == 6
    # What run.json says of the adapter is still so, and the run does not count as finished.
    assert (record["status"], record["result"]["best"]) == ("running", _adapter(run))
    assert list_runs(run.parent)[0].status == "stopped"


@pytest.mark.parametrize(
    "change",
    [{"adapter__alpha": 64.0}, {"data__normalizer": "spelled-1"}, {"train__seed": 9},
     {"retain__weight": 0.0}, {"select__canary_bound": 50.0}, {"train__warmup_share": 0.5}],
)  # fmt: skip
def test_what_would_be_another_run_is_refused_and_changes_nothing(
    run: Path, change: dict[str, Any]
) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ProblemsError, match=next(iter(change)).replace("__", r"\.")):
        _resume(run, **change)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_fewer_steps_than_are_done_are_refused(run: Path) -> None:
    with pytest.raises(RequestError, match=r"4 steps are done, more than train\.steps=2"):
        _resume(run, train__steps=2)
    assert _record(run)["settings"]["train"]["steps"] == 4


def test_a_shorter_longest_clip_changes_training_and_not_the_scores(run: Path) -> None:
    ids = [line.split('"id": "')[1][:6] for line in (run / "eval/dev.jsonl").open()]
    watcher = Training.Watcher()
    _resume(run, watcher, train__steps=6, data__max_clip_s=0.8)
    assert any("train: kept" in line and "longer than 0.8 s" in line for line in watcher.messages)
    assert any(line == f"dev: kept {len(ids)} of {len(ids)}" for line in watcher.messages)


# --- the adapter that was chosen


def _die() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("end", ["power", "older", "swap"])
def test_the_chosen_adapter_stays_until_a_better_one_is_scored(
    run: Path, training: Training, end: str
) -> None:
    chosen, weights = _adapter(run), Training.adapter(run)
    assert chosen["strength"] == 0.6
    if end == "older":
        # The state of a version that did not keep the choice.
        path = run / "state" / "state.json"
        document = json.loads(path.read_text())
        del document["counters"]["chosen"]
        path.write_text(json.dumps(document))
    if end == "swap":
        shutil.rmtree(run / "adapter")
    if end == "power":
        with pytest.raises(KeyboardInterrupt):
            _resume(run, training.Watcher(5, _die), train__steps=9)
        # Killed while the new state was written: the one before is used.
        (run / "state" / "state.safetensors").write_bytes(b"torn")
    result = _resume(run, training.Watcher.interrupting(5), train__steps=9)
    assert (_adapter(run), Training.adapter(run)) == (chosen, weights)
    assert (result.stopped, result.best.to_json()) == ("interrupted", chosen)
    assert _record(run)["result"]["best"] == chosen


@pytest.mark.parametrize("holds", [True, False])
def test_an_adapter_that_breaks_the_bound_never_replaces_one_that_holds_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    """All scores of the second leg have a lower dev WER; its canary is kept or lost."""
    from moonshine_tune.training.trainer import Trainer

    chosen, score = _adapter(run), Trainer._score

    def scored(trainer: Trainer, *given: Any, **named: Any) -> Any:
        candidate, dev = score(trainer, *given, **named)
        canary = chosen["canary_wer"] + (0.0 if holds else 500.0)
        return candidate.model_copy(update={"dev_wer": 1.0, "canary_wer": canary}), dev

    monkeypatch.setattr(Trainer, "_score", scored)
    result = _resume(run, train__steps=8)
    assert (_adapter(run) == chosen) is not holds
    assert result.best.to_json() == _adapter(run)
    assert result.canary_held


def test_a_finished_run_that_is_resumed_chooses_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, weights = _adapter(run), Training.adapter(run)
    monkeypatch.setattr(SelectionRule, "choose", _weakest)
    transcripts = (run / "eval/dev.jsonl").read_bytes()
    result = _resume(run)
    assert (result.best.to_json(), Training.adapter(run)) == (chosen, weights)
    assert (run / "eval/dev.jsonl").read_bytes() == transcripts


def test_the_next_leg_trains_on_from_the_last_step_and_not_from_the_choice(finished: Path) -> None:
    """The best adapter is put into the model to try its strengths; it is not trained further."""
    after, before = (
        load_file(finished / "state" / name / "state.safetensors") for name in ("", "previous")
    )

    def same(first: str, second: str) -> bool:
        names = [name.removeprefix(first) for name in after if name.startswith(first)]
        assert names
        return all(after[first + name].equal(before[second + name]) for name in names)

    assert same("adapter/", "adapter/")
    assert not same("adapter/", "best/")
    assert same("chosen/", "best/")


# --- a run that was moved


@pytest.fixture
def moved(training: Training, tmp_path: Path) -> Path:
    """A run that was interrupted at step 2 and moved together with its data; the new root."""
    root = tmp_path / "A"
    shutil.copytree(training.speech, root / "data")
    own = Training(training.model, root / "data")
    train(own.settings("replay", train__steps=4), root / "runs/a", own.Watcher.interrupting(2))
    root.rename(tmp_path / "B")
    return tmp_path / "B"


def test_a_moved_run_continues_and_records_its_new_place(moved: Path) -> None:
    watcher = Training.Watcher()
    assert _resume(moved / "runs/a", watcher).stopped == "finished"
    assert sum("moved with the run" in line for line in watcher.messages) == 3
    record = _record(moved / "runs/a")
    assert record["settings"]["data"]["dev"] == str(moved / "data/dev.jsonl")
    assert "legs" not in record
    again = Training.Watcher()
    _resume(moved / "runs/a", again, train__steps=5)
    assert not [line for line in again.messages if "moved" in line]


def test_manifests_elsewhere_are_named_once(moved: Path) -> None:
    (moved / "data").rename(moved / "recordings")
    out, data = moved / "runs/a", moved / "recordings"
    with pytest.raises(ProblemsError, match=r"data\.replay is not at") as caught:
        _resume(out)
    assert "--train train.jsonl --dev dev.jsonl --replay replay.jsonl" in str(caught.value.hint)
    named = {f"data__{name}": str(data / f"{name}.jsonl") for name in ("train", "dev", "replay")}
    _resume(out, **named)
    assert _record(out)["settings"]["data"]["train"] == str(data / "train.jsonl")


# --- the verdict


@pytest.mark.parametrize(("dev", "verdict", "code"), [(500.0, "no better than the base", 1),
                                                      (None, "no better than the base", 1),
                                                      (0.5, "better", 0)])  # fmt: skip
def test_the_verdict_is_in_the_result_the_record_the_list_and_the_exit_code(
    training: Training,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[..., tuple[int, Any]],
    dev: float | None,
    verdict: str,
    code: int,
) -> None:
    """Worse than the base, exactly as good, and better."""
    from moonshine_tune.training.trainer import Trainer

    score = Trainer._score

    def scored(trainer: Trainer, step: int, *given: Any, **named: Any) -> Any:
        candidate, details = score(trainer, step, *given, **named)
        wer = 90.0 if step == 0 or dev is None else dev
        return candidate.model_copy(update={"dev_wer": wer, "dev_loss": None}), details

    monkeypatch.setattr(Trainer, "_score", scored)
    out = tmp_path / "my runs; $(x)" / "a"
    answer, document = ask(
        "train", "--model", training.model, "--train", training.speech / "train.jsonl",
        "--dev", training.speech / "dev.jsonl", "--out", out, "--set", "train.steps=2",
        "--set", "train.batch_size=4", "--set", "device.name=cpu", "--replay", "none",
    )  # fmt: skip
    assert (answer, document["verdict"]) == (code, verdict)
    assert any(verdict in remark for remark in document["remarks"]) == bool(code)
    assert _record(out)["result"]["verdict"] == verdict
    summary = list_runs(out.parent)[0]
    assert (summary.verdict, summary.remark) == (verdict, verdict if code else "")
    # A run that was recorded without a verdict has its scores.
    record = _record(out)
    del record["result"]["verdict"]
    (out / "run.json").write_text(json.dumps(record))
    assert list_runs(out.parent)[0].verdict == verdict

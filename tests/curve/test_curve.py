"""`curve`: nested parts, the fitted curve, continuing, and its report."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.made_up_training import FakeTrain

from moonshine_tune.cli import curve as command
from moonshine_tune.cli.app import run
from moonshine_tune.config.resolve import ResolvedSettings, resolve_settings
from moonshine_tune.core.errors import NegativeAnswerError, ProblemsError, RequestError
from moonshine_tune.core.files import write_jsonl_atomic
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.corpus.manifest import Utterance, read_manifest, write_manifest
from moonshine_tune.curve.fit import LearningCurve, Training
from moonshine_tune.curve.run import CurveRequest, CurveResult, learning_curve
from moonshine_tune.curve.subsets import check_sizes, default_sizes, subset
from moonshine_tune.report.page import write_report
from moonshine_tune.runs.folder import RunFolder


def _utterances(count: int, speakers: int = 2) -> list[Utterance]:
    return [
        Utterance(f"u{n}", Path(f"/none/{n}.wav"), f"text {n}", speaker=f"s{n % speakers}")
        for n in range(count)
    ]


def test_a_smaller_part_is_in_each_larger_one() -> None:
    utterances = _utterances(40)
    parts = [subset(utterances, size, seed=1) for size in (5, 10, 20, 40)]
    for small, large in pairwise(parts):
        assert {item.id for item in small} < {item.id for item in large}
    assert parts[-1] == utterances
    assert [item.id for item in parts[1]] != [item.id for item in subset(utterances, 10, seed=2)]
    # Both speakers have their share.
    assert {sum(item.speaker == name for item in parts[1]) for name in ("s0", "s1")} == {5}


def test_sizes() -> None:
    assert default_sizes(50) == (6, 12, 25, 50)
    assert default_sizes(10) == (4, 5, 10)
    assert check_sizes([20, 10, 20], 30) == (10, 20)
    for wrong in ([10], [2, 10], [10, 31]):
        with pytest.raises(RequestError, match="at least two, from 4 to 30"):
            check_sizes(wrong, 30)
    with pytest.raises(RequestError, match="a curve of 4 training clips"):
        check_sizes([3, 4], 4)


_WORDS = np.full(100, 6.0)


def _trainings(rate: Any, seeds: int = 3) -> list[Training]:
    rng = np.random.default_rng(7)
    return [
        Training(size, rng.poisson(_WORDS * rate(size) / 100).astype(float))
        for size in (6, 12, 25, 50)
        for _ in range(seeds)
    ]


def test_a_falling_curve_is_continued_with_a_wider_interval() -> None:
    curve = LearningCurve(_trainings(lambda n: 40 * (1 + n / 10) ** -0.6), _WORDS * 0.4, _WORDS)
    ranges = [curve.predict(n) for n in (50, 100, 400)]
    middles = [item.middle for item in ranges]
    assert middles == sorted(middles, reverse=True)
    widths = [(item.high - item.low) / item.middle for item in ranges]
    assert widths == sorted(widths)
    assert ranges[1].low < 40 * (1 + 100 / 10) ** -0.6 < ranges[1].high
    assert curve.gain(50, 100).low > 0
    assert curve.predict(100) == curve.predict(100)


def test_a_flat_curve_gains_little() -> None:
    curve = LearningCurve(_trainings(lambda n: 12.0), _WORDS * 0.4, _WORDS)
    assert curve.gain(50, 100).high < 1.2
    one_seed = LearningCurve(_trainings(lambda n: 12.0, seeds=1), _WORDS * 0.4, _WORDS)
    assert one_seed.predict(100).high - one_seed.predict(100).low > 1.0


class _Learns(FakeTrain):
    """A training whose WER falls with the size of its manifest."""

    def __call__(
        self, resolved: ResolvedSettings, out: Path, progress: Progress, *, resume: bool = False
    ) -> None:
        super().__call__(resolved, out, progress, resume=resume)
        train = resolved.settings.data.train
        assert train is not None
        size = len(read_manifest(train, check_files=False))
        errors = round(40 * size**-0.5)
        lines = [
            {"id": f"u{n}", "reference": "a", "hypothesis": "b", "substitutions": errors,
             "deletions": 0, "insertions": 0, "reference_words": 50, "character_errors": 1,
             "reference_characters": 1}
            for n in range(30)
        ]  # fmt: skip
        write_jsonl_atomic(RunFolder(out).dev_hypotheses_path, lines)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    for name, count in (("train", 32), ("dev", 8)):
        write_manifest(tmp_path / f"{name}.jsonl", _utterances(count))
    return {f"data.{name}": str(tmp_path / f"{name}.jsonl") for name in ("train", "dev")}


def _curve(out: Path, data: dict[str, str], train: FakeTrain, **options: Any) -> CurveResult:
    settings = resolve_settings([("flag", data), ("--set", {"train.steps": 25})])
    request = CurveRequest(out, settings, seeds=options.pop("seeds", 2), **options)
    return learning_curve(request, SilentProgress(), train=train)


@pytest.fixture(autouse=True)
def _no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests of recordings that are not there."""
    monkeypatch.setattr(
        "moonshine_tune.curve.run.read_manifest",
        lambda path, **options: read_manifest(path, **options | {"check_files": False}),
    )


def test_a_curve_is_trained_continued_and_drawn(tmp_path: Path, data: dict[str, str]) -> None:
    out, train = tmp_path / "curve", _Learns()
    result = _curve(out, data, train, more=(32,))
    assert (result.stopped, result.trained, result.planned) == ("finished", 8, 8)
    # A size after the other, and only then the next seed.
    assert [path.name for _, path, _ in train.ran[:5]] == [
        "n0004-s0", "n0008-s0", "n0016-s0", "n0032-s0", "n0004-s1"
    ]  # fmt: skip
    assert {resolved.settings.train.seed for resolved, _, _ in train.ran} == {0, 1}
    record = json.loads((out / "curve.json").read_text())
    assert record["verdict"] == "worth it"
    (prediction,) = record["predictions"]
    assert prediction["recordings"] == 64
    assert prediction["low"] < prediction["wer"] < prediction["high"]
    assert any(line.startswith("32 more recordings: ") for line in record["sentences"])
    assert _curve(out, data, train, more=(32,)).record.predictions == result.record.predictions
    assert len(train.ran) == 8
    with pytest.raises(RequestError, match="another curve is here: its sizes differ"):
        _curve(out, data, train, sizes=(4, 8))
    page = write_report(out, None, SilentProgress()).report.read_text(encoding="utf-8")
    assert "WER by number of recordings" in page
    assert ">recordings</text>" in page
    assert "32 more recordings" in command._summary(result)


def test_an_interrupted_training_goes_on(tmp_path: Path, data: dict[str, str]) -> None:
    def interrupt(trial: int, step: int) -> None:
        if trial == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _curve(tmp_path / "curve", data, _Learns(interrupt))
    train = _Learns()
    result = _curve(tmp_path / "curve", data, train)
    assert result.trained == 8
    assert [resume for _, _, resume in train.ran] == [True, *[False] * 5]


def test_time_is_up(tmp_path: Path, data: dict[str, str]) -> None:
    # The made-up trainings say that they took 2 s each.
    result = _curve(tmp_path / "curve", data, _Learns(), budget=0.02)
    assert (result.stopped, result.trained) == ("time is up", 1)
    assert not result.record.predictions
    assert "too little is trained" in command._summary(result)
    assert "1 of 8 trainings" in command._summary(result)


def test_without_dev_a_share_is_held_out_once(tmp_path: Path, data: dict[str, str]) -> None:
    train = _Learns()
    result = _curve(tmp_path / "curve", {"data.train": data["data.train"]}, train, seeds=1)
    devs = {resolved.settings.data.dev for resolved, _, _ in train.ran}
    assert devs == {tmp_path / "curve" / "subsets" / "dev.jsonl"}
    assert result.record.recordings < 32
    train_ids = {item.id for item in read_manifest(
        tmp_path / "curve" / "subsets" / f"n{result.record.sizes[-1]:04d}-s0.jsonl",
        check_files=False,
    ).utterances}  # fmt: skip
    dev = read_manifest(tmp_path / "curve" / "subsets" / "dev.jsonl", check_files=False)
    assert not train_ids & {item.id for item in dev.utterances}


def test_wrong_requests(tmp_path: Path, data: dict[str, str]) -> None:
    for options in ({"seeds": 0}, {"budget": 0.0}, {"more": (0,)}):
        with pytest.raises(RequestError):
            _curve(tmp_path / "curve", data, _Learns(), **options)
    with pytest.raises(RequestError, match="no training manifest"):
        _curve(tmp_path / "curve", {}, _Learns())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match="not empty"):
        _curve(tmp_path / "full", data, _Learns())
    with pytest.raises((RequestError, ProblemsError)):
        _curve(tmp_path / "curve", data | {"data.train": "none.jsonl"}, _Learns())
    assert run(["curve", "--train", "x", "--sizes", "a,b", "--out", str(tmp_path / "c")]) == 2


def test_a_base_without_errors_has_no_curve(tmp_path: Path, data: dict[str, str]) -> None:
    class Perfect(_Learns):
        def __call__(
            self, resolved: Any, out: Path, progress: Any, *, resume: bool = False
        ) -> None:
            super().__call__(resolved, out, progress, resume=resume)
            result = RunFolder(out).read_record().result.to_json()
            result["baseline"]["dev_wer"] = 0.0
            RunFolder(out).update_record(result=result)

    with pytest.raises(NegativeAnswerError, match="makes no error on dev"):
        _curve(tmp_path / "curve", data, Perfect())


def test_trainings_that_are_worse_than_the_base_predict_nothing(
    tmp_path: Path, data: dict[str, str]
) -> None:
    class Worse(_Learns):
        def __call__(
            self, resolved: Any, out: Path, progress: Any, *, resume: bool = False
        ) -> None:
            super().__call__(resolved, out, progress, resume=resume)
            result = RunFolder(out).read_record().result.to_json()
            result["baseline"]["dev_wer"] = 1.0
            RunFolder(out).update_record(result=result)

    record = _curve(tmp_path / "curve", data, Worse(), seeds=1).record
    assert record.verdict == "no better than the base"
    assert not record.predictions
    assert "no training is better" in record.sentences[0]


def test_other_sound_is_not_joined_to_the_points_before(
    tmp_path: Path, data: dict[str, str]
) -> None:
    _curve(tmp_path / "curve", data, _Learns(), budget=0.02)
    (run,) = (tmp_path / "curve" / "runs").iterdir()
    known = read_manifest(Path(data["data.dev"]), check_files=False).utterances[0]
    line = {"manifest": "dev", "use": "dev", "id": known.id, "fingerprint": "of another sound"}
    write_jsonl_atomic(RunFolder(run).recordings_path, [line])
    with pytest.raises(ProblemsError, match="1 of 1 recordings are not the ones"):
        _curve(tmp_path / "curve", data, _Learns())

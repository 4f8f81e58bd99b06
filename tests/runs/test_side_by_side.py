"""Evaluations of the same clips, side by side."""

from moonshine_tune.runs.records import EvaluationRecord, SpeakerRecord, SystemRecord
from moonshine_tune.runs.side_by_side import columns, side_by_side


def _scored(backend: str, wer: float, **more: object) -> EvaluationRecord:
    record = {"backend": backend, "wer": wer, "manifest_sha256": "a", "normalizer": "basic-1"}
    return EvaluationRecord.model_validate(record | more)


def test_evaluations_of_one_manifest_are_one_set() -> None:
    torch = _scored("torch", 17.1, adapter="run", by_speaker={"ann": 10.0})
    files = _scored("runtime", 17.3, exported="0" * 64, by_speaker={"ann": 11.0})
    base = _scored("torch", 24.1)
    named = [("test", "", torch), ("test-files", "", files), ("test-base", "", base)]
    (part,) = side_by_side(named, {})
    assert part.name == "test"
    assert {key: system.wer for key, system in part.systems.items()} == {
        ("adapted", "torch"): 17.1,
        ("adapted", "runtime"): 17.3,
        ("base", "torch"): 24.1,
    }
    assert columns([part]) == [("base", "torch"), ("adapted", "torch"), ("adapted", "runtime")]


def test_one_evaluation_may_hold_all_systems() -> None:
    systems = [
        SystemRecord(side=side, backend=backend, wer=wer)
        for side, backend, wer in (("base", "torch", 24.1), ("adapted", "runtime", 17.3))
    ]
    both = _scored(
        "torch", 17.1, systems=[item.to_json() for item in systems],
        speakers={"ann": {"utterances": 3, "words": 20}},
    )  # fmt: skip
    (part,) = side_by_side([("folder", "", both)], {"a": "dev"})
    assert part.name == "dev" and part.speakers == {"ann": SpeakerRecord(utterances=3, words=20)}


def test_other_clips_or_another_normalizer_are_another_set() -> None:
    torch = _scored("torch", 17.1, adapter="run")
    others = [
        _scored("runtime", 17.3, manifest_sha256="b"),
        _scored("runtime", 17.3, normalizer="english-1"),
    ]
    for other in others:
        assert side_by_side([("test", "", torch), ("other", "", other)], {}) == ()


def test_sets_of_one_back_end_stand_beside_those_of_both() -> None:
    torch = _scored("torch", 17.1, adapter="run")
    canary = _scored("torch", 5.0, manifest_sha256="b")
    files = _scored("runtime", 17.3, exported="0" * 64)
    assert side_by_side([("test", "", torch), ("canary", "", canary)], {}) == ()
    named = [("test", "", torch), ("files", "", files), ("canary", "base", canary)]
    assert [part.name for part in side_by_side(named, {})] == ["test", "canary"]

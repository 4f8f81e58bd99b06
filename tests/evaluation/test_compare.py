"""`evaluate --compare` and `compare`: two results meet only when both are scored alike."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.cli.evaluate import summary
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Manifest, Utterance
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.evaluation.evaluate import Variant, _aliases_record, score_manifest
from moonshine_tune.evaluation.results import Evaluation, earlier_evaluation, write_evaluation
from moonshine_tune.inference import transcribe as transcribe_module
from moonshine_tune.report.contrasts import contrasts
from moonshine_tune.report.reading import read_report_input
from moonshine_tune.runs.compare import compare_runs
from moonshine_tune.runs.records import AliasesRecord

_TEXTS = {"u1": "Rubout N I D nine", "u2": "go to twenty-one", "u3": "Hmm."}
_HYPOTHESES = {"u1": "rub out N I D 9", "u2": "go to 21", "u3": "thank you"}


class _Repeats:
    """A transcriber that knows its texts."""

    backend, batch_s = "torch", 100.0

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = list(texts)

    def transcribe(self, clips: Sequence[Any]) -> list[str]:
        return [self._texts.pop(0) for _ in clips]


@pytest.fixture(autouse=True)
def _no_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcribe_module, "load_utterance", lambda utterance: utterance.id)


def _manifest(texts: dict[str, str] = _TEXTS, sha256: str = "1") -> Manifest:
    items = [Utterance(n, Path(f"{n}.wav"), text, duration=2.0) for n, text in texts.items()]
    return Manifest(Path("test.jsonl"), tuple(items), sha256)


def _evaluation(
    normalizer: str, texts: dict[str, str] = _TEXTS, hypotheses: dict[str, str] = _HYPOTHESES
) -> Evaluation:
    transcriber = _Repeats([hypotheses[name] for name in texts])
    variant = Variant("model", "tiny", None, transcriber, normalizer_for(normalizer))
    return score_manifest(variant, _manifest(texts), SilentProgress())


def test_the_same_transcripts_under_two_normalizers_show_no_difference(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a", _evaluation("spelled-1"))
    earlier = earlier_evaluation(tmp_path / "a", _manifest())
    result = _evaluation("english-1").compared_with(earlier)
    assert result.comparison is not None
    assert (result.comparison.difference, result.comparison.ci95) == (0.0, (0.0, 0.0))
    record = result.to_record()
    assert "scored with spelled-1" in record.remarks[0]
    assert "scored again with english-1" in summary(result)


def test_a_result_with_a_part_of_the_clips_is_compared_on_that_part(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a", _evaluation("english-1", {"u2": _TEXTS["u2"]}))
    earlier = earlier_evaluation(tmp_path / "a", _manifest())
    result = _evaluation("english-1").compared_with(earlier)
    assert "compared on the 1 of 3 clips that both have, 2 left out" in summary(result)
    assert result.base is not None
    assert result.base.utterances == 1


def test_nothing_in_common_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a", _evaluation("english-1"))
    with pytest.raises(RequestError, match="no clip of this manifest"):
        earlier_evaluation(tmp_path / "a", _manifest({"v1": "go"}))


def test_words_made_up_are_in_the_summary_and_the_record() -> None:
    """English-1 drops the filler: its two words are not 100 % of a word."""
    result = _evaluation("english-1")
    record = result.to_record().to_json()
    assert record["empty_references"] == {
        "utterances": 1, "made_up_words": 2, "seconds": 2.0, "made_up_per_minute": 60.0
    }  # fmt: skip
    assert (record["utterances"], record["insertions"]) == (3, 1)
    assert "not part of the WER: 2 on 1 utterances, 60.0 per minute" in summary(result)
    assert "empty_references" not in _evaluation("spelled-1").to_record().to_json()


def test_a_manifest_of_noise_has_no_wer() -> None:
    texts = {"n1": "", "n2": " "}
    result = _evaluation("english-1", texts, {"n1": "you", "n2": ""})
    assert result.to_record().wer is None
    lines = summary(result).splitlines()
    assert lines[2].split() == ["model", "-", "-"]
    assert "nan" not in summary(result).lower()


def test_a_report_pairs_two_sides_of_other_normalizers(tmp_path: Path) -> None:
    for side, normalizer in (("base", "spelled-1"), ("adapted", "english-1")):
        write_evaluation(tmp_path / "eval" / f"domain-{side}-torch", _evaluation(normalizer))
    (tmp_path / "demo.json").write_text("{}")
    (row,) = [row for row in contrasts(read_report_input(tmp_path)) if row.before]
    assert row.before is not None
    assert row.after is not None
    assert (row.before.value, row.difference, row.ci95) == (row.after.value, 0.0, (0.0, 0.0))


def test_a_report_has_no_difference_of_two_sides_without_a_common_clip(tmp_path: Path) -> None:
    for side, name in (("base", "u1"), ("adapted", "u2")):
        evaluation = _evaluation("english-1", {name: _TEXTS[name]})
        write_evaluation(tmp_path / "eval" / f"domain-{side}-torch", evaluation)
    (tmp_path / "demo.json").write_text("{}")
    (row,) = [row for row in contrasts(read_report_input(tmp_path)) if row.before]
    assert (row.difference, row.verdict) == (None, "")


def test_runs_of_two_normalizers_are_paired_with_one(tmp_path: Path) -> None:
    for name, normalizer in (("a", "spelled-1"), ("b", "english-1")):
        folder = tmp_path / name
        scored = _evaluation(normalizer).scored
        (folder / "eval").mkdir(parents=True)
        record = {"settings": {"model": "tiny"}, "status": "finished", "normalizer": normalizer}
        (folder / "run.json").write_text(json.dumps(record))
        lines = [json.dumps(item.to_record()) + "\n" for item in scored]
        (folder / "eval" / "dev.jsonl").write_text("".join(lines))
    result = compare_runs([tmp_path / "a", tmp_path / "b"], SilentProgress())
    (pair,) = result.pairs
    assert (pair.comparison.difference, pair.better, pair.worse) == (0.0, (), ())
    assert "a was scored with spelled-1" in result.remarks[0]


def test_aliases_are_mapped_back_beside_what_was_written() -> None:
    texts = {"u1": "a crayfish", "u2": "the crayfish and more"}
    evaluation = _evaluation(
        "english-1", texts, {"u1": "a craiffish", "u2": "the craiffish craiffish"}
    )
    aliases = AliasesRecord(aliases={"craiffish": "crayfish"})
    record = _aliases_record(aliases, {"model": evaluation})
    plain, mapped = record.arms
    assert (plain.arm, plain.recalled, plain.false_alarms) == ("model", 0, 0)
    assert (mapped.recalled, mapped.spoken, mapped.false_alarms) == (2, 2, 1)
    assert mapped.change.difference is not None and mapped.change.difference < 0
    assert "aliases mapped back" in summary(replace(evaluation, aliases=record))


def test_a_folder_that_is_written_again_has_nothing_of_the_evaluation_before(
    tmp_path: Path,
) -> None:
    evaluation = _evaluation("basic-1")
    write_evaluation(tmp_path, replace(evaluation, conditions=(evaluation,)))
    assert (tmp_path / "conditions.jsonl").is_file()
    write_evaluation(tmp_path, evaluation)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hypotheses.jsonl", "result.json"]

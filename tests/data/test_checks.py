"""Checks: declarations, discovery, and the transcripts of a base model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.data.checks import rules
from moonshine_tune.data.checks.base import Edit, all_checks
from moonshine_tune.data.checks.check import check_data
from moonshine_tune.data.checks.checked_manifest import ModelEvidence, ModelTranscript
from moonshine_tune.data.checks.rules.model_transcripts import suspicious_transcripts
from moonshine_tune.data.checks.text import character_distance

_MODULE = '''
from moonshine_tune.data.checks.base import utterance_check

@utterance_check("warning")
def too_polite(utterance):
    """[transcript says|transcripts say] please.

    Remove [it|them].
    """
    return utterance.text if "please" in (utterance.text or "") else None
'''


@pytest.fixture
def new_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of checks that exists in no list."""
    (tmp_path / "politeness.py").write_text(_MODULE, encoding="utf-8")
    monkeypatch.setattr(rules, "__path__", [*rules.__path__, str(tmp_path)])
    all_checks.cache_clear()
    yield
    monkeypatch.undo()
    all_checks.cache_clear()


@pytest.mark.usefixtures("new_module")
def test_a_check_in_a_new_module_runs_without_any_other_edit(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.wav").write_bytes(b"")
    path = tmp_path / "train.jsonl"
    lines = ['{"id": "a", "audio": "a.wav", "text": "left"}',
             '{"id": "b", "audio": "b.wav", "text": "right please"}']  # fmt: skip
    path.write_text("\n".join(lines), encoding="utf-8")
    findings = {finding.kind: finding for finding in check_data([path], SilentProgress()).findings}
    polite = findings["too_polite"]
    assert (polite.ids, polite.details) == (("b",), ("right please",))
    assert (polite.explanation, polite.action) == ("1 transcript says please", "remove it")
    assert findings["empty_audio"].explanation == "2 recordings have no samples"


def test_every_check_has_a_sentence_for_one_and_for_several_and_a_hint() -> None:
    for kind, check in all_checks().items():
        findings = [check.report("train", [("a", "x")] * count)[0] for count in (1, 2)]
        assert all(finding.kind == kind and finding.action for finding in findings), kind
        singular, plural = (finding.explanation for finding in findings)
        assert singular.startswith("1 ") and plural.startswith("2 "), kind
        assert singular[2:] != plural[2:], f"{kind} needs [singular|plural]"
        for text in (singular, plural, findings[0].action):
            assert not set("[]|{}") & set(text), f"{kind}: {text}"


def test_actions_of_edits_are_unique() -> None:
    fixes = [check.declared.fix for check in all_checks().values()]
    actions = [fix.action for fix in fixes if isinstance(fix, Edit)]
    assert len(set(actions)) == len(actions)


def _transcript(number: int, reference: str, text: str, loss: float) -> ModelTranscript:
    distance = character_distance(reference, text)
    return ModelTranscript(f"u{number}", reference, text, 0.9, loss, distance)


def test_suspicious_transcripts_have_one_of_four_kinds() -> None:
    usual = [_transcript(n, f"turn left {n}", f"turn left {n}", 0.5) for n in range(20)]
    long = "climb to flight level three one zero and turn left"
    suspicious = [
        _transcript(20, "hold short of the runway", "good morning to you", 4.0),
        _transcript(21, "good morning to you", "hold short of the runway", 4.1),
        _transcript(22, "descend now", "what a nice day", 3.0),
        _transcript(23, "climb", long, 2.9),
        _transcript(24, long, "climb", 2.8),
    ]
    # Confident of the same text, or not confident at all: not suspicious.
    accepted = [
        _transcript(25, "speedbird one two", "speed bird one two", 3.5),
        ModelTranscript("u26", "taxi via alpha", "noise", 0.1, 6.0, 1.0),
    ]
    transcripts = (*usual, *suspicious, *accepted)
    evidence = ModelEvidence(list, (), normalizer_for("basic-1"), transcripts)
    assert [(kind, name) for kind, (name, _) in suspicious_transcripts(evidence)] == [
        ("swapped_text", "u21"), ("swapped_text", "u20"), ("doubtful_text", "u22"),
        ("words_missing", "u23"), ("words_not_said", "u24"),
    ]  # fmt: skip
    few = ModelEvidence(list, (), normalizer_for("basic-1"), transcripts[10:25])
    assert suspicious_transcripts(few) == ()

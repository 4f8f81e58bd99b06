"""`data next`: the sentences that together teach most, and why."""

import json
from pathlib import Path

import pytest

from moonshine_tune.audio import tts
from moonshine_tune.cli.app import run
from moonshine_tune.core.errors import MachineError, NegativeAnswerError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.data.next_sentences import features
from moonshine_tune.data.next_sentences.features import WordPhonemes
from moonshine_tune.data.next_sentences.run import NextRequest, NextResult, next_sentences

_TEXT = """\
the cat sat on the mat
the cat sat on a mat
Ceph is a pool of disks
we like Ceph and Kubernetes
shall we measure the judge
one two
word word word word word word word word word word word word word word word word word word word word word
"""  # noqa: E501


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(_TEXT)
    return path


@pytest.fixture
def by_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without espeak-ng."""

    def missing() -> None:
        raise MachineError("espeak-ng is not installed")

    monkeypatch.setattr(features, "SpeechSynthesizer", missing)


def _next(text: Path, **options: object) -> NextResult:
    return next_sentences(NextRequest((text,), **options), SilentProgress())  # type: ignore[arg-type]


def _terms(tmp_path: Path, *terms: str) -> Path:
    path = tmp_path / "terms.txt"
    path.write_text("\n".join(terms) + "\n")
    return path


def test_terms_without_a_take_come_first(by_letters: None, text: Path, tmp_path: Path) -> None:
    result = _next(text, terms=_terms(tmp_path, "Ceph", "Kubernetes", "etcd"), count=2)
    first, second = result.sentences
    assert first.text == "we like Ceph and Kubernetes"
    assert first.why[:2] == ("Ceph: no takes yet", "Kubernetes: no takes yet")
    # No sentence has it, so a short one is offered.
    assert "etcd" in second.text
    assert any("2 sentences have fewer than 3 or more than 20 words" in r for r in result.remarks)
    assert any("letters" in remark for remark in result.remarks)


def test_what_is_recorded_counts(by_letters: None, text: Path, tmp_path: Path) -> None:
    recorded = tmp_path / "train.jsonl"
    lines = [{"audio": f"{n}.wav", "text": item} for n, item in enumerate(
        ["We like Ceph and Kubernetes!", "The cat sat on the mat."]
    )]  # fmt: skip
    recorded.write_text("".join(json.dumps(line) + "\n" for line in lines))
    terms = _terms(tmp_path, "Ceph")
    result = _next(text, terms=terms, recorded=(recorded,), count=10)
    texts = [item.text for item in result.sentences]
    assert "we like Ceph and Kubernetes" not in texts
    assert "Ceph: 1 take so far" in result.sentences[texts.index("Ceph is a pool of disks")].why
    # The sentence that is nearly recorded teaches least.
    assert texts[-1] == "the cat sat on a mat"
    assert any("2 sentences are recorded already" in remark for remark in result.remarks)


def test_missed_and_unsure_words_are_wanted(by_letters: None, text: Path, tmp_path: Path) -> None:
    counts = {"substitutions": 1, "deletions": 0, "insertions": 0, "reference_words": 3,
              "character_errors": 1, "reference_characters": 9}  # fmt: skip
    line = {"id": "a", "reference": "sat on mats", "hypothesis": "set on mats"} | counts
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "hypotheses.jsonl").write_text(json.dumps(line) + "\n")
    result = _next(text, evaluations=(tmp_path / "eval",), count=1)
    assert "sat: missed 1 of 1 times" in result.sentences[0].why
    words = [{"text": "Judge.", "confidence": 0.1}, {"text": "the", "confidence": 0.95}]
    transcript = tmp_path / "words.jsonl"
    transcript.write_text(json.dumps({"audio": "a.wav", "text": "Judge.", "words": words}) + "\n")
    result = _next(text, transcripts=(transcript,), count=1)
    assert result.sentences[0].text == "shall we measure the judge"
    assert "judge: confidence 0.10" in result.sentences[0].why
    transcript.write_text('{"audio": "a.wav", "text": "Judge."}\n')
    with pytest.raises(RequestError, match="no word has a confidence"):
        _next(text, transcripts=(transcript,))
    with pytest.raises(RequestError, match="no evaluation in this folder"):
        _next(text, evaluations=(tmp_path,))


def test_the_set_covers_and_is_the_same_again(text: Path) -> None:
    result = _next(text, count=4)
    assert result == _next(text, count=4)
    # Both sentences with the cat would teach the same.
    assert sum("cat" in item.text for item in result.sentences) == 1
    assert all(item.score > 0 for item in result.sentences)
    assert not WordPhonemes(["mat"], "en").remark
    assert WordPhonemes(["mat", ""], "en").pairs("mat") == ("| m", "m æ", "æ t", "t |")
    assert WordPhonemes(["..."], "en").pairs("...") == ()


def test_the_command(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "next.txt"
    command = ["data", "next", str(text), "--count", "2", "--out", str(out)]
    assert run([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert out.read_text().splitlines() == [item["text"] for item in document["sentences"]]
    assert document["sentences"][0]["why"]
    assert run(command) == 2
    assert run(["data", "next", "--count", "2"]) == 0
    assert run(["data", "next", "--count", "0"]) == 2
    capsys.readouterr()
    assert run(["data", "next", "--language", "de"]) == 2
    assert "no sentences in 'de' are built in" in capsys.readouterr().err
    text.write_text("one\n")
    with pytest.raises(NegativeAnswerError, match="no sentence is left"):
        _next(text)


def test_espeak_reports_phonemes_of_a_language() -> None:
    with tts.SpeechSynthesizer() as synthesizer:
        assert synthesizer.phonemes(["Tell me, now", ""])[1] == ()
        assert "ç" in synthesizer.phonemes(["ich"], voice="de")[0]

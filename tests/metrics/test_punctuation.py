"""Punctuation and case errors, against cases counted by hand."""

import pytest

from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.metrics import letter_case, punctuation
from moonshine_tune.metrics.metric import Metric
from moonshine_tune.metrics.wer import score_utterance

_ENGLISH = normalizer_for("english-1")


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors", "marks"),
    [
        ("Yes, go.", "Yes, go.", 0, 2),
        ("Yes, go.", "yes go", 2, 2),
        ("Yes, go.", "Yes. Go.", 1, 2),
        ("Yes go", "Yes, go.", 2, 0),
        # The end is the end, whatever the last word is.
        ("Go left now.", "Go left.", 0, 1),
        ("Go left.", "Go left now.", 0, 1),
        ("Turn to two seven zero, please.", "Turn to 270, please.", 0, 2),
        # Marks count where they are: two errors, not none.
        ("Go, left now", "Go left, now", 2, 1),
        ("He said: 'go!'", "He said, go!", 1, 2),
        ("Wait… no", "Wait... no", 0, 1),
        ("你好。再见！", "你好.再见!", 0, 2),
        ("कैसे हो।", "कैसे हो", 1, 1),
        ("Go.", "", 1, 1),
        ("", "Made up.", 1, 0),
        ("", "", 0, 0),
    ],
)
def test_marks_are_compared_between_equal_words(
    reference: str, hypothesis: str, errors: int, marks: int
) -> None:
    assert punctuation.count(reference, hypothesis) == (errors, marks)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors", "words"),
    [
        ("I'm in London.", "i'm in london", 2, 3),
        ("I'm in London.", "I’m in London", 0, 3),
        ("In Bonn", "in Born", 1, 1),
        ("Go now", "", 0, 0),
        ("你好", "你好", 0, 2),
    ],
)
def test_case_counts_on_equal_words(
    reference: str, hypothesis: str, errors: int, words: int
) -> None:
    assert letter_case.count(reference, hypothesis) == (errors, words)


def _value(metric: Metric, *pairs: tuple[str, str]) -> tuple[float | None, str]:
    scored = [score_utterance(str(i), *pair, _ENGLISH) for i, pair in enumerate(pairs)]
    score = metric.score(scored, _ENGLISH)
    return score.value, score.reason


def test_what_the_normalizer_hides_is_scored() -> None:
    pairs = [("Hi, I'm here.", "hi i'm here"), ("In Rome.", "In Rome.")]
    assert _value(punctuation.METRIC, *pairs) == (pytest.approx(100 * 2 / 3), "")
    assert _value(letter_case.METRIC, *pairs) == (pytest.approx(100 * 2 / 5), "")


@pytest.mark.parametrize(
    ("references", "of_marks", "of_case"),
    [
        (["turn left", "it is 3.5"], "0% of the references have punctuation",
         "0% of the references have capital letters"),
        (["Go.", "go on", "go off"], "33% of the references have punctuation",
         "33% of the references have capital letters"),
        (["GO ON", "TURN LEFT"], "0% of the references have punctuation",
         "100% of the references are in capitals"),
        (["Turn left", "M E L V I N", "He and i"], "0% of the references have punctuation",
         "the references have capital letters at their start only"),
        (["Turn left.", "M E L V I N", "He is."], "", ""),
        (["今天天气很好。"], "", "0% of the references have capital letters"),
    ],
)  # fmt: skip
def test_references_without_marks_or_case_are_not_scored(
    references: list[str], of_marks: str, of_case: str
) -> None:
    pairs = [(reference, "Go on.") for reference in references]
    value, reason = _value(punctuation.METRIC, *pairs)
    assert reason == of_marks and (value is None) == bool(of_marks)
    value, reason = _value(letter_case.METRIC, *pairs)
    assert reason == of_case and (value is None or not of_case)

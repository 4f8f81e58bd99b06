"""Texts as words and gaps: nothing is lost, and what is a word, a mark and a sentence."""

import pytest

from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.corpus.punctuation import (
    WrittenText,
    align,
    equal_words,
    has_marks,
    is_sentence,
    marks_in,
)

_WORDS = {
    "Don't go, U.S. forces!": ["Don't", "go", "U.S", "forces"],
    "twenty-one at 10:30, 3.5 of 1,000": ["twenty", "one", "at", "10:30", "3.5", "of", "1,000"],
    "“Stop…wait” (she said) — 'tis": ["Stop", "wait", "she", "said", "tis"],
    "¿Qué? ¡Ya!": ["Qué", "Ya"],
    "你好。再见": ["你", "好", "再", "见"],
    "안녕하세요. 네": ["안녕하세요", "네"],
    "مرحبا، كيف؟": ["مرحبا", "كيف"],
    "नमस्ते।": ["नमस्ते"],
    "AT&T 50% of $5": ["AT&T", "50%", "of", "$5"],
    " . ": [],
    "": [],
}


@pytest.mark.parametrize("text", _WORDS)
def test_a_text_is_its_words_and_gaps(text: str) -> None:
    parts = WrittenText.of(text)
    assert list(parts.words) == _WORDS[text]
    assert str(parts) == text and len(parts.gaps) == len(parts.words) + 1


def test_marks_of_other_scripts_are_the_same_marks() -> None:
    assert marks_in("。") == marks_in('." ') == marks_in("।") == (".",)
    assert marks_in("؟ ") == marks_in("？") == ("?",)
    assert marks_in("...") == marks_in("… ") == ("…",)
    assert marks_in(' -- "(') == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("go.", True), ("go, now", True), ('"go?" she', True), ("你好。再见", True), ("كيف؟", True),
     ("3.5 of the U.S fleet", False), ("don't twenty-one", False), ("10:30", False), ("", False)],
)  # fmt: skip
def test_a_sign_inside_a_word_is_no_mark(text: str, expected: bool) -> None:
    assert has_marks(text) is expected


def test_words_are_aligned_without_case_and_apostrophes() -> None:
    first, second = WrittenText.of("i'm in STRASSE two"), WrittenText.of("Im, uh, in Straße 2.")
    blocks = align(first, second)
    assert [block.is_equal for block in blocks] == [True, False, True, False]
    assert list(equal_words(first, second, blocks)) == [
        ("i'm", "Im"), ("in", "in"), ("STRASSE", "Straße"),
    ]  # fmt: skip
    assert align(WrittenText.of(""), WrittenText.of(".")) == ()
    (block,) = align(WrittenText.of(""), WrittenText.of("made up"))
    assert block.is_one_sided and list(block.second) == [0, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("turn left heading two seven zero", True), ("I am here", True), ("yes", False),
     ("turn left", False), ("g m e f three nine", False), ("six three seven nine", False),
     ("A B C D", False), ("今日は天気がいい", True), ("東京", False), ("", False)],
)  # fmt: skip
def test_single_words_letters_and_numbers_are_no_sentence(text: str, expected: bool) -> None:
    assert is_sentence(text, normalizer_for("english-1")) is expected

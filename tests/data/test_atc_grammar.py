"""The phraseology grammar and the everyday sentences."""

import re

import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.data.synthesis.atc_grammar import (
    MAX_WORDS,
    MIN_WORDS,
    phraseology_sentences,
    phraseology_split,
)
from moonshine_tune.data.synthesis.general_sentences import general_sentences

DIGIT = "(?:zero|one|two|three|four|five|six|seven|eight|nine)"


@pytest.fixture(scope="module")
def many() -> tuple[str, ...]:
    return phraseology_sentences(2000, seed=7)


def test_sentences_are_distinct_and_within_the_length_limits(many: tuple[str, ...]) -> None:
    assert len(many) == len(set(many)) == 2000
    assert all(MIN_WORDS <= len(sentence.split()) <= MAX_WORDS for sentence in many)


def test_sentences_are_written_like_transcripts(many: tuple[str, ...]) -> None:
    for sentence in many:
        assert re.fullmatch(r"[A-Z][A-Za-z,\- ]+[a-zA-Z]\.", sentence), sentence
        assert "  " not in sentence and " ," not in sentence and ",," not in sentence


def test_no_digits_and_no_special_spelling(many: tuple[str, ...]) -> None:
    text = " ".join(many).lower()
    assert not re.search(r"\d", text)
    assert not re.search(r"\b(niner|tree|fife|fower|ten|twenty|eleven|point)\b", text.replace(
        "holding point", ""))  # fmt: skip


def test_quantities_have_the_digits_that_controllers_say(many: tuple[str, ...]) -> None:
    text = " ".join(many).lower()
    for opening, rest in (
        ("flight level", rf"{DIGIT} {DIGIT} zero\b(?! {DIGIT})"),
        ("heading", rf"(zero|one|two|three) {DIGIT} (zero|five)\b(?! {DIGIT})"),
        ("runway", rf"{DIGIT} {DIGIT}\b(?! {DIGIT})"),
        ("squawk", rf"{DIGIT}( {DIGIT}){{3}}\b(?! {DIGIT})"),
        ("wind", rf"{DIGIT} {DIGIT} zero degrees ({DIGIT} )?{DIGIT} knots"),
    ):
        quantities = re.findall(rf"\b{opening}\b ([^,.]*)", text)
        assert len(quantities) > 50, opening
        assert all(re.match(rest, words) for words in quantities), opening
    squawks = re.findall(r"squawk ([^,.]*)", text)
    assert not any("eight" in code or "nine" in code for code in squawks), "squawks are octal"
    frequencies = re.findall(r"\bon (one [^,.]* decimal [^,.]*)", text)
    assert len(frequencies) > 50
    for frequency in frequencies:
        pattern = rf"one (one|two|three) {DIGIT} decimal {DIGIT}( {DIGIT}){{0,2}}"
        assert re.fullmatch(pattern, frequency), frequency


def test_all_kinds_of_traffic_occur(many: tuple[str, ...]) -> None:
    text = " ".join(many).lower()
    for phrase in (
        "cleared to land", "cleared for take-off", "hold short of", "taxi to", "line up and wait",
        "flight level", "heading", "squawk", "qnh", "wind", "knots", "feet", "decimal",
        "tower on", "ground on", "approach on", " left", " right", " center", "golf",
    ):  # fmt: skip
        assert phrase in text, phrase


def test_a_larger_count_starts_with_the_smaller_one() -> None:
    assert phraseology_sentences(50, seed=3) == phraseology_sentences(80, seed=3)[:50]
    assert phraseology_sentences(50, seed=3) != phraseology_sentences(50, seed=4)
    assert phraseology_sentences(0, seed=3) == ()


def test_an_impossible_count_is_refused() -> None:
    with pytest.raises(RequestError, match="-1"):
        phraseology_sentences(-1, seed=0)


def test_splits_share_no_sentence() -> None:
    split = phraseology_split(train=60, dev=20, test=40, seed=11)
    assert (len(split.train), len(split.dev), len(split.test)) == (60, 20, 40)
    assert len({*split.train, *split.dev, *split.test}) == 120
    assert split.train + split.dev + split.test == phraseology_sentences(120, seed=11)


def test_an_impossible_split_is_refused() -> None:
    with pytest.raises(RequestError, match="-1"):
        phraseology_split(train=2, dev=-1, test=1, seed=0)


def test_everyday_sentences_are_varied() -> None:
    sentences = general_sentences()
    assert len(sentences) == len(set(sentences)) >= 110
    assert all(6 <= len(sentence.split()) <= 25 for sentence in sentences)
    assert all(re.fullmatch(r"[A-Z].*[.?]", sentence) for sentence in sentences)
    assert sum(sentence.endswith("?") for sentence in sentences) >= 10
    assert sum(bool(re.search(r"\d", sentence)) for sentence in sentences) >= 20

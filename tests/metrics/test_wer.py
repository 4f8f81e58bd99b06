"""Counts first, divided once; intervals and verdicts by bootstrap."""

import random
from collections.abc import Sequence

import pytest

from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.metrics.wer import (
    ErrorCounts,
    ScoredUtterance,
    compare_paired,
    score_utterance,
    summarize,
)

_BASIC = normalizer_for("basic-1")


def _score(reference: str, hypothesis: str, number: int = 0, speaker: str = "") -> ScoredUtterance:
    return score_utterance(f"u{number}", reference, hypothesis, _BASIC, speaker=speaker or None)


def _set(pairs: Sequence[tuple[str, str]]) -> list[ScoredUtterance]:
    return [_score(*pair, number) for number, pair in enumerate(pairs)]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts"),
    [
        ("it was the best", "it was the best", (0, 0, 0, 4)),
        ("it was the best", "it was a best", (1, 0, 0, 4)),
        ("it was the best", "it the best", (0, 1, 0, 4)),
        ("it was the best", "and it was the best", (0, 0, 1, 4)),
        ("it was the best", "", (0, 4, 0, 4)),
        ("", "it was", (0, 0, 2, 0)),
        ("", "", (0, 0, 0, 0)),
        ("...", "it", (0, 0, 1, 0)),
        ("It was, THE best!", "it was the best", (0, 0, 0, 4)),
        ("a b c", "x y z w", (3, 0, 1, 3)),
    ],
)
def test_words_are_counted_after_normalization(
    reference: str, hypothesis: str, counts: tuple[int, int, int, int]
) -> None:
    words = _score(reference, hypothesis).words
    assert (words.substitutions, words.deletions, words.insertions, words.reference) == counts


def test_characters_are_counted_too() -> None:
    scored = _score("best of", "rest of it")
    assert (scored.characters.substitutions, scored.characters.insertions) == (1, 3)
    assert scored.characters.reference == 7
    assert _score("", "abc").characters == ErrorCounts(insertions=3)


def test_reference_and_hypothesis_are_kept_as_they_were() -> None:
    scored = _score("It WAS!", "it was?")
    assert (scored.reference, scored.hypothesis, scored.words.errors) == ("It WAS!", "it was?", 0)


def test_the_record_has_the_counts() -> None:
    record = _score("one two", "one too three", 3, "s1").to_record()
    assert record == {
        "id": "u3", "reference": "one two", "hypothesis": "one too three", "substitutions": 1,
        "deletions": 0, "insertions": 1, "reference_words": 2, "character_errors": 7,
        "reference_characters": 7, "speaker": "s1",
    }  # fmt: skip
    assert "speaker" not in _score("a", "a").to_record()


def test_the_corpus_rate_is_no_average_of_rates() -> None:
    scored = _set([("yes", "no"), ("a b c d e f g h i", "a b c d e f g h i")])
    # The average of 100 % and 0 % would be 50 %.
    assert summarize(scored).wer == pytest.approx(10.0)
    assert summarize(scored).words == ErrorCounts(substitutions=1, reference=10)


def test_an_empty_reference_is_counted_apart() -> None:
    score = summarize(_set([("", "oh no"), ("a b c d", "a b c x"), ("...", ""), ("?!", "oh")]))
    assert (score.wer, score.words.insertions, score.utterances) == (25.0, 0, 4)
    assert (score.empty.utterances, score.empty.made_up_words) == (3, 3)
    assert score.worst[0].hypothesis == "oh no"
    assert score.cer == pytest.approx(100 / 7)
    # An interval over the same utterances as the rate.
    assert score.ci95 == (25.0, 25.0)


def test_a_set_without_a_reference_word_has_no_rate() -> None:
    score = summarize(_set([("", "oh no"), ("!", "")]))
    assert score.to_record() == {"wer": None, "ci95": None}
    assert (score.has_wer, score.empty.made_up_words) == (False, 2)


def test_made_up_words_are_counted_per_minute_of_their_audio() -> None:
    noise = [score_utterance("n", "", "thank you", _BASIC, seconds=10.0)]
    speech = [score_utterance("s", "a b", "a b", _BASIC, seconds=100.0)]
    assert summarize(noise + speech).empty.made_up_per_minute == pytest.approx(12.0)
    # Nothing is claimed where the length of one of them is not known.
    assert summarize([*noise, _score("", "you")]).empty.made_up_per_minute is None


def test_nothing_to_score() -> None:
    score = summarize([])
    assert (score.wer, score.ci95, score.utterances, score.worst) == (0.0, (0.0, 0.0), 0, ())


def test_counts_add_up() -> None:
    total = ErrorCounts(1, 2, 3, 10) + ErrorCounts(10, 20, 30, 90)
    assert (total, total.errors, total.rate) == (ErrorCounts(11, 22, 33, 100), 66, 66.0)


def test_speakers_have_rates_of_their_own() -> None:
    scored = [
        _score("a b", "a b", 0, "x"), _score("a b c d", "a b c", 1, "y"), _score("a", "b", 2, "x"),
        _score("a", "a", 3),
    ]  # fmt: skip
    assert summarize(scored).by_speaker == {"x": pytest.approx(100 / 3), "y": 25.0}


def test_the_worst_come_first_and_the_right_ones_never() -> None:
    scored = _set([("a b", "a b"), ("a b c", "x y z"), ("a b", "a x"), ("a b c d", "")])
    score = summarize(scored, num_worst=2)
    assert [item.id for item in score.worst] == ["u3", "u1"]
    assert [item.id for item in summarize(scored).worst] == ["u3", "u1", "u2"]


# --- intervals


def _random_set(rate: float, count: int = 200, seed: int = 1) -> list[ScoredUtterance]:
    rng = random.Random(seed)
    pairs = []
    for _ in range(count):
        words = ["word"] * rng.randint(3, 12)
        hypothesis = ["wrong" if rng.random() < rate else word for word in words]
        pairs.append((" ".join(words), " ".join(hypothesis)))
    return _set(pairs)


def test_the_interval_holds_the_rate_and_is_as_wide_as_theory_says() -> None:
    scored = _random_set(0.2)
    score = summarize(scored)
    low, high = score.ci95
    assert low < score.wer < high
    # Independent words: ±1.96 standard errors of a share.
    expected = 2 * 1.96 * 100 * (0.2 * 0.8 / score.words.reference) ** 0.5
    assert high - low == pytest.approx(expected, rel=0.25)


def test_more_utterances_give_a_narrower_interval() -> None:
    few, many = summarize(_random_set(0.2, 50)), summarize(_random_set(0.2, 800))
    assert many.ci95[1] - many.ci95[0] < 0.4 * (few.ci95[1] - few.ci95[0])


def test_the_interval_is_the_same_each_time() -> None:
    assert summarize(_random_set(0.2)).ci95 == summarize(_random_set(0.2)).ci95


def test_without_errors_the_interval_is_zero() -> None:
    assert summarize(_set([("a b", "a b")] * 10)).ci95 == (0.0, 0.0)


# --- comparisons


def test_fewer_errors_are_better_and_more_are_worse() -> None:
    before, after = _random_set(0.4, seed=1), _random_set(0.1, seed=1)
    better = compare_paired(before, after)
    assert better.verdict == "better"
    assert better.ci95[1] < 0
    assert better.difference == pytest.approx(better.after - better.before)
    assert better.relative_change == pytest.approx(100 * better.difference / better.before)
    worse = compare_paired(after, before)
    assert worse.verdict == "worse"
    assert worse.ci95[0] > 0
    assert worse.difference == pytest.approx(-better.difference)


def test_the_same_answers_show_no_difference() -> None:
    scored = _random_set(0.3)
    same = compare_paired(scored, scored)
    assert (same.verdict, same.difference, same.ci95) == ("no difference shown", 0.0, (0.0, 0.0))


def test_one_better_word_in_few_shows_no_difference() -> None:
    before = _set([("a b c", "a b x"), ("d e f", "d e f"), ("g h i", "g x i")])
    after = _set([("a b c", "a b c"), ("d e f", "d e f"), ("g h i", "g x i")])
    comparison = compare_paired(before, after)
    assert comparison.difference < 0
    assert comparison.verdict == "no difference shown"


def test_a_paired_interval_shows_what_two_intervals_do_not() -> None:
    """A small gain on each of many: the single intervals overlap, the paired one is clear."""
    reference, lost = "a b c d e f g h i j", [("a b c d e f g h i j", "")] * 40
    before = _set([(reference, "a b c d e f g h x y")] * 60 + lost)
    after = _set([(reference, "a b c d e f g h i y")] * 60 + lost)
    assert summarize(after).ci95[1] > summarize(before).ci95[0]
    assert compare_paired(before, after).verdict == "better"


def test_the_order_does_not_matter_but_the_ids_do() -> None:
    before, after = _random_set(0.4, 50, seed=1), _random_set(0.1, 50, seed=1)
    assert compare_paired(before, after[::-1]) == compare_paired(before, after)
    with pytest.raises(ValueError, match="same utterances"):
        compare_paired(before, after[:-1])


def test_other_references_are_no_pair() -> None:
    with pytest.raises(ValueError, match="same references"):
        compare_paired(_set([("rub out", "rub out")]), _set([("rubout", "rubout")]))


@pytest.mark.parametrize("seed", range(25))
def test_an_interval_holds_its_own_difference(seed: int) -> None:
    """Few or many utterances, skewed lengths and rates, empty references, and one clip alone."""
    rng = random.Random(seed)
    words = ["a", "b", "c", "d", "e", "f"]

    def text(longest: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(0, longest)))

    count = rng.choice([1, 2, 3, 8, 30])
    references = [text(rng.choice([3, 12, 60])) for _ in range(count)]
    sides = [
        _set([(r, r if rng.random() < share else text(12)) for r in references])
        for share in (rng.random(), rng.random())
    ]
    change = compare_paired(*sides)
    assert change.ci95[0] <= change.difference <= change.ci95[1]
    assert change.difference == pytest.approx(change.after - change.before)
    for side, wer in zip(sides, (change.before, change.after), strict=True):
        score = summarize(side)
        assert score.wer == wer
        assert score.ci95[0] <= score.wer <= score.ci95[1]


def test_from_zero_errors_there_is_no_relative_change() -> None:
    before, after = _set([("a", "a")]), _set([("a", "b")])
    assert compare_paired(before, after).relative_change == 0.0

"""Changes of two pairs of systems, and rates against other references."""

import pytest

from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.metrics.wer import (
    ScoredUtterance,
    compare_changes,
    compare_rates,
    score_utterance,
)

_REFERENCES = {"a": "one two three four", "b": "five six", "silence": ""}


def _scored(references: dict[str, str] = _REFERENCES, **texts: str) -> list[ScoredUtterance]:
    normalizer = normalizer_for("basic-1")
    return [
        score_utterance(name, reference, texts.get(name, reference), normalizer)
        for name, reference in references.items()
    ]


def test_the_difference_of_two_changes() -> None:
    """Of six words the base's files lose one, and the exported ones two."""
    right = _scored()
    one = _scored(b="five x")
    two = _scored(a="x x three four", silence="thank you")
    compared = compare_changes((right, one), (right, two))
    assert compared.before == pytest.approx(100 / 6)
    assert compared.after == pytest.approx(200 / 6)
    assert compared.difference == pytest.approx(100 / 6)
    assert compared.ci95[0] < compared.difference < compared.ci95[1]
    # In whatever order the utterances come.
    assert compare_changes((right, one[::-1]), (right[::-1], two)) == compared
    assert compare_changes((one, two), (one, two)).ci95 == (0.0, 0.0)


def test_changes_of_other_utterances_or_references_are_refused() -> None:
    right, other = _scored(), _scored(_REFERENCES | {"a": "one two three"})
    with pytest.raises(ValueError, match="the same utterances"):
        compare_changes((right, right), (other, other))
    with pytest.raises(ValueError, match="the same utterances"):
        compare_rates(right, right[:1])


def test_rates_against_references_of_their_own() -> None:
    """A made-up word where the reference is empty counts, and each rate has its own words."""
    shorter = {"a": "one two", "b": "five six", "silence": ""}
    compared = compare_rates(_scored(), _scored(shorter, a="one x", silence="you"))
    assert (compared.before, compared.after) == (0.0, 50.0)
    assert compared.difference == 50.0 and compared.verdict == "no difference shown"

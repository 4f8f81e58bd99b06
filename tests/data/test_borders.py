"""Dividing words between pieces by likelihood, without a model."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.data.alignment.borders import Scores, WordRange, best_borders, likely_borders
from moonshine_tune.data.alignment.match import SpokenPiece
from moonshine_tune.data.alignment.segments import divide_text
from moonshine_tune.data.alignment.text_words import text_words

ENGLISH = normalizer_for(None, "en")


def test_borders_are_those_of_the_likeliest_division_with_their_share() -> None:
    scores = np.full((2, 4, 4), -np.inf)
    scores[0, 0, :] = [-9.0, -1.0, -2.0, -9.0]
    scores[1, :, 3] = [-9.0, -1.0, -2.0, -9.0]
    (border,) = best_borders(scores) or []
    assert border.word == 1
    # Of e^-2, the others have e^-18, e^-4 and e^-18.
    assert border.probability == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-4)
    assert not border.is_certain
    assert best_borders(np.full((2, 4, 4), -np.inf)) is None


def spoken(*counts: int) -> tuple[list[SpokenPiece], list[set[int]]]:
    """Pieces of two seconds, and the words that are spoken in each."""
    pieces = [SpokenPiece(2.0 * n, 2.0 * n + 2.0, "") for n in range(len(counts))]
    ends = np.cumsum([0, *counts])
    return pieces, [set(range(a, b)) for a, b in pairwise(ends)]


def rated(
    truth: Sequence[set[int]], ranges: Sequence[WordRange], words: Sequence[int]
) -> list[Scores]:
    """Five nats for each word that is elsewhere, and for each that is spoken and not among them."""
    results = []
    for item in ranges:
        inside: list[set[int]] = [
            {words[n] for n in range(item.first, end)} for end in range(item.first, item.end + 1)
        ]
        results.append(np.array([-5.0 * len(truth[item.piece] ^ chosen) for chosen in inside]))
    return results


@pytest.mark.parametrize("counts", [(4, 3, 5), (1, 6, 2, 3), (5, 0, 4)])
def test_words_go_to_the_pieces_in_which_they_are_likely(counts: tuple[int, ...]) -> None:
    pieces, truth = spoken(*counts)
    total = sum(counts)
    borders = likely_borders(pieces, [4] * total, lambda ranges: rated(truth, ranges, range(total)))
    assert borders is not None
    assert [border.word for border in borders] == np.cumsum(counts)[:-1].tolist()
    assert all(border.is_certain for border in borders)


def test_a_letter_that_is_the_same_by_accident_goes_where_it_is_likely() -> None:
    """`E` is at the start of the third piece's text, and the model writes an E in the second."""
    text = "we go to the market P E E L now and then we come home again"
    words = text_words(text, ENGLISH)
    pieces = [
        SpokenPiece(0.0, 3.0, "We go to the market"),
        SpokenPiece(3.0, 5.0, "P E"),
        SpokenPiece(5.0, 7.0, "He all"),
        SpokenPiece(7.0, 11.0, "now and then we come home again"),
    ]
    truth = [set(range(5)), {5, 6, 7, 8}, set(), set(range(9, 16))]

    def rate(at: Sequence[int], chosen: Sequence[int], ranges: Sequence[WordRange]) -> list[Scores]:
        return rated([truth[piece] for piece in at], ranges, chosen)

    plain = divide_text(pieces, text, words, ENGLISH)
    assert "P E E L" not in [item.text for item in plain.segments]
    again = divide_text(pieces, text, words, ENGLISH, rate)
    texts = [item.text for item in again.segments if item.text]
    assert texts == ["we go to the market", "P E E L", "now and then we come home again"]
    assert [item.is_sure for item in again.segments][1] == (True, True)

"""Where a text is divided between pieces of a recording, by how likely the model finds each range.

Letters say where the words are that the model writes as the text has them. Where it does not,
the model still finds the right words of the text likelier than those before and behind them. All
divisions of a doubtful stretch are compared, and a border counts as certain where the likely
divisions agree on it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moonshine_tune.data.alignment.match import SpokenPiece

Scores = npt.NDArray[np.float64]

# Nobody speaks faster than this, letters a second; a piece has room for so many letters more.
_MAX_LETTER_RATE, _MORE_LETTERS = 18.0, 10
# How far a border may be from where its time puts it: a share of all letters, and letters.
_SLACK_SHARE, _SLACK_LETTERS = 0.1, 30
# A piece may be spoken by nobody's text: its noise, or a passage that the text lacks, costs no more
# than so many nats.
_NO_WORDS_NATS = 8.0
# The tokens of a word depend on each other, so the model is surer than it should be.
_TEMPERATURE = 2.0
_CERTAIN = 0.95
# Longer stretches are left as they are: their passages do not fit the text at all.
_MAX_WORDS, _MAX_PIECES = 80, 20


@dataclass(frozen=True)
class WordRange:
    """Words of a text that may be spoken in a piece, from one on.

    Attributes:
        piece: index of the piece.
        first: first word.
        end: behind the last word that the piece has time for.
    """

    piece: int
    first: int
    end: int


RateRanges = Callable[[Sequence[WordRange]], list[Scores]]
"""Log likelihoods [end - first + 1] in nats for each range: of none of its words, one, two …"""


@dataclass(frozen=True)
class Border:
    """A division of the words between two pieces.

    Attributes:
        word: first word of the right piece.
        probability: share of this border in the likelihood of all divisions.
    """

    word: int
    probability: float

    @property
    def is_certain(self) -> bool:
        """Whether nearly all likely divisions have this border."""
        return self.probability >= _CERTAIN


def likely_borders(
    pieces: Sequence[SpokenPiece], lengths: Sequence[int], rate: RateRanges
) -> list[Border] | None:
    """The borders between neighboring pieces that share all words of a stretch, in order.

    Args:
        lengths: letters of each word.
        rate: how likely the model finds the words of each range, by indices of both lists.

    Returns:
        One fewer than pieces; None if the stretch is too long, or has no possible division.
    """
    if not lengths or len(lengths) > _MAX_WORDS or not 1 < len(pieces) <= _MAX_PIECES:
        return None
    ranges = list(_ranges(pieces, lengths))
    scores = np.full((len(pieces), len(lengths) + 1, len(lengths) + 1), -np.inf)
    for item, likelihoods in zip(ranges, rate(ranges), strict=True):
        row = scores[item.piece, item.first, item.first : item.end + 1]
        row[:] = likelihoods
        row[0] = max(row[0], -_NO_WORDS_NATS)
    return best_borders(scores / _TEMPERATURE)


def _ranges(pieces: Sequence[SpokenPiece], lengths: Sequence[int]) -> Iterator[WordRange]:
    """All words that each piece may begin with, and the most that it has time for."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ends_s = np.cumsum([piece.end_s - piece.start_s for piece in pieces])
    total, total_s = int(offsets[-1]), float(ends_s[-1])
    slack = _SLACK_SHARE * total + _SLACK_LETTERS
    for index, piece in enumerate(pieces):
        seconds = piece.end_s - piece.start_s
        expected = total * (ends_s[index] - seconds) / total_s
        room = _MAX_LETTER_RATE * seconds + _MORE_LETTERS
        for first in range(len(lengths) + 1):
            if index and abs(offsets[first] - expected) > slack:
                continue
            if not index and first:
                break
            end = int(np.searchsorted(offsets, offsets[first] + room, side="right")) - 1
            yield WordRange(index, first, max(end, first))


def best_borders(scores: Scores) -> list[Border] | None:
    """The likeliest division, with the share of each of its borders in all divisions.

    Args:
        scores: log likelihood [pieces, first word, end word], -inf where it is impossible.

    Returns:
        None if no division is possible.
    """
    num_pieces, width, _ = scores.shape
    start = np.full(width, -np.inf)
    start[0] = 0.0
    forward, best, origins = [start], start, []
    for piece in range(num_pieces):
        forward.append(_logsum(forward[-1][:, None] + scores[piece], axis=0))
        reached = best[:, None] + scores[piece]
        origins.append(reached.argmax(axis=0))
        best = reached.max(axis=0)
    if not np.isfinite(best[-1]):
        return None
    backward = np.full(width, -np.inf)
    backward[-1] = 0.0
    word, borders = width - 1, []
    for piece in range(num_pieces - 1, 0, -1):
        backward = _logsum(scores[piece] + backward[None, :], axis=1)
        word = int(origins[piece][word])
        share = np.exp(forward[piece][word] + backward[word] - forward[-1][-1])
        borders.append(Border(word, float(share)))
    return borders[::-1]


def _logsum(values: Scores, axis: int) -> Scores:
    top = values.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        result = np.log(np.exp(values - top).sum(axis=axis)) + top.squeeze(axis)
    return np.asarray(result)

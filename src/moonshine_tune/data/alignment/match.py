"""Which words of a text are spoken in which piece of its recording."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.data.alignment.letters import Indices, align_letters
from moonshine_tune.data.alignment.text_words import TextWord

# A word of the text is certain where the model wrote at least this share of its letters.
SURE_SHARE = 0.5
# Letters at the edge of a piece that may lack a partner: an article, or the ending of a word.
_EDGE_LETTERS = 3

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SpokenPiece:
    """A span of a recording and what the model wrote for it; times in seconds.

    Attributes:
        pause_s: length of the pause around its end.
    """

    start_s: float
    end_s: float
    hypothesis: str
    pause_s: float = 0.0

    @property
    def num_written(self) -> int:
        """Letters and digits of the hypothesis."""
        return sum(map(str.isalnum, self.hypothesis))


@dataclass(frozen=True)
class TextMatch:
    """Which words of a text are spoken in which piece of its recording.

    Attributes:
        spoken: letters of all hypotheses.
        piece_of_letter: of each of these letters.
        is_equal: of each letter of the text, whether the model wrote the same at its place.
        word_starts: first letter of each word of the text, and the end.
        piece_of_word: -1 where a word has no partner.
        is_sure: of each word, whether enough of its letters are equal.
        ranges: first and last word of each piece; None for a piece without any.
        free: letters at the start and at the end of each piece without an equal partner.
    """

    pieces: Sequence[SpokenPiece]
    words: Sequence[TextWord]
    spoken: str
    piece_of_letter: Indices
    is_equal: Flags
    word_starts: Indices
    piece_of_word: list[int]
    is_sure: list[bool]
    ranges: list[tuple[int, int] | None]
    free: list[tuple[int, int]]

    def behind(self, word: int) -> int:
        """The end of the words up to this one, with dashes and labels behind it."""
        end = word + 1
        while end < len(self.words) and not self.words[end].letters:
            end += 1
        return end

    def num_letters(self, first: int, end: int) -> int:
        """Letters of a range of words."""
        return int(self.word_starts[end] - self.word_starts[first])

    def letters_spoken(self, pieces: Sequence[int]) -> str:
        """Letters that the model wrote for pieces that follow each other."""
        first, end = np.searchsorted(self.piece_of_letter, (pieces[0], pieces[-1] + 1))
        return self.spoken[first:end]

    def hypothesis_letters(self, piece: int) -> int:
        """How many letters the model wrote for a piece."""
        return len(self.letters_spoken([piece]))

    def is_sure_at(self, piece: int, *, end: bool) -> bool:
        """Whether the first, or the last, word of a piece is certain."""
        words = self.ranges[piece]
        if words is None:
            return False
        return self.is_sure[words[end]] and self.free[piece][end] <= _EDGE_LETTERS


def match_text(
    pieces: Sequence[SpokenPiece], words: Sequence[TextWord], normalizer: Normalizer
) -> TextMatch:
    """Align the hypotheses of all pieces with a text."""
    spoken = [normalizer(piece.hypothesis).split() for piece in pieces]
    lengths = [sum(map(len, item)) for item in spoken]
    piece_of_letter = np.repeat(np.arange(len(pieces)), lengths)
    hypothesis = "".join(word for item in spoken for word in item)
    letters = "".join(word.letters for word in words)
    word_starts = _offsets([len(word.letters) for word in words])
    spoken_starts = _offsets([len(word) for item in spoken for word in item])
    partner = align_letters(
        hypothesis, letters, spoken_starts[:-1].tolist(), word_starts[:-1].tolist()
    )
    wanted = zip(partner.tolist(), letters, strict=True)
    is_equal = np.array([at >= 0 and hypothesis[at] == letter for at, letter in wanted], dtype=bool)
    piece_of_word = [-1] * len(words)
    ranges: list[tuple[int, int] | None] = [None] * len(pieces)
    for word in range(len(words)):
        letters_of_word = slice(word_starts[word], word_starts[word + 1])
        piece = _piece_of(partner[letters_of_word], is_equal[letters_of_word], piece_of_letter)
        if piece is not None:
            piece_of_word[word] = piece
            ranges[piece] = ((ranges[piece] or (word,))[0], word)
    is_sure = [
        bool(is_equal[first:end].mean() >= SURE_SHARE) if first < end else False
        for first, end in pairwise(word_starts.tolist())
    ]
    free = _free_letters(np.sort(partner[is_equal]), _offsets(lengths).tolist())
    return TextMatch(
        pieces,
        words,
        hypothesis,
        piece_of_letter,
        is_equal,
        word_starts,
        piece_of_word,
        is_sure,
        ranges,
        free,
    )


def _piece_of(partners: Indices, is_equal: Flags, piece_of_letter: Indices) -> int | None:
    """The piece in which most letters of a word have a partner; equal ones count twice."""
    has_partner = partners >= 0
    if not has_partner.any():
        return None
    weights = 1 + is_equal[has_partner]
    return int(np.bincount(piece_of_letter[partners[has_partner]], weights).argmax())


def _free_letters(equal: Indices, starts: Sequence[int]) -> list[tuple[int, int]]:
    """Letters before the first and behind the last equal one of each piece.

    Args:
        equal: letters of the hypotheses with an equal partner, in order.
        starts: first letter of each piece, and the end.
    """
    free = []
    for start, end in pairwise(starts):
        first, last = np.searchsorted(equal, (start, end))
        inside = equal[first:last]
        free.append(
            (int(inside[0]) - start, end - 1 - int(inside[-1]))
            if len(inside)
            else (end - start, end - start)
        )
    return free


def _offsets(lengths: Sequence[int]) -> Indices:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))])

"""Pieces of a recording that belong together, with their words of the transcript, by letters.

A border between two pieces is kept where a word beside it is certain; else both are in one block,
with all words between the next certain borders.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from moonshine_tune.data.alignment.match import TextMatch

# Models make up a short word, such as "you", for a breath or a noise.
MADE_UP_LETTERS = 5
# About two words. Fewer letters of the text at a border may be spoken and not recognized.
_FEW_LETTERS = 12
# More than about four words in a row are a passage that nobody reads, if the model wrote at most
# this share of their letters there.
_PASSAGE_LETTERS, _FREE_SHARE = 24, 0.25
# So few letters on one side of such a passage belong to it, and are the same by accident.
_STRAY_LETTERS = 3


@dataclass(frozen=True)
class PieceBlock:
    """Neighboring pieces, and the words of the text between two borders.

    Attributes:
        pieces: their indices.
        first, end: of the words between the borders.
        spoken: those of them that are in no passage that nobody reads.
        is_sure: whether the first, and the last, word is recognized at its place.
    """

    pieces: tuple[int, ...]
    first: int
    end: int
    spoken: tuple[int, ...]
    is_sure: tuple[bool, bool]


def blocks_of(match: TextMatch) -> list[PieceBlock]:
    """All pieces with speech, cut where a word beside a border is certain."""
    return [
        PieceBlock(
            tuple(item.pieces),
            item.first,
            item.end,
            tuple(_spoken_words(match, item)),
            (
                match.is_sure_at(item.pieces[0], end=False),
                match.is_sure_at(item.pieces[-1], end=True),
            ),
        )
        for item in _bounds(match)
    ]


class _Bounds(NamedTuple):
    """Pieces between two certain borders, and the words between them."""

    pieces: list[int]
    first: int
    end: int


def _bounds(match: TextMatch) -> Iterator[_Bounds]:
    """Pieces and words of each block.

    A piece for which the model wrote next to nothing is in none, unless words of the text are left
    for it.
    """
    pieces: list[int] = []
    skipped: list[int] = []
    first = 0
    for piece in range(len(match.pieces)):
        if match.ranges[piece] is None and match.pieces[piece].num_written <= MADE_UP_LETTERS:
            skipped.append(piece)
            continue
        if pieces and (cut := _cut(match, pieces[-1], piece)) is not None:
            yield _Bounds(pieces, first, cut[0])
            if skipped and cut[0] < cut[1]:
                yield _Bounds(skipped, *cut)
            pieces, first = [], cut[1]
        elif not pieces and match.is_sure_at(piece, end=False):
            first = (match.ranges[piece] or (0,))[0]
        pieces.append(piece)
        skipped = []
    if pieces:
        last = match.ranges[pieces[-1]]
        is_sure = last is not None and match.is_sure_at(pieces[-1], end=True)
        yield _Bounds(
            pieces, first, match.behind(last[1]) if last and is_sure else len(match.words)
        )


def _cut(match: TextMatch, left: int, right: int) -> tuple[int, int] | None:
    """End of the words of the left piece and first of those of the right one; None if uncertain.

    Words between two certain ones are not read, if they are many. Few may be spoken and not
    recognized, on either side.
    """
    before, after = match.ranges[left], match.ranges[right]
    is_left_sure = before is not None and match.is_sure_at(left, end=True)
    is_right_sure = after is not None and match.is_sure_at(right, end=False)
    if before and after and is_left_sure and is_right_sure:
        missing = match.num_letters(before[1] + 1, after[0])
        return None if 0 < missing <= _FEW_LETTERS else (match.behind(before[1]), after[0])
    if before and is_left_sure:
        return match.behind(before[1]), match.behind(before[1])
    return (after[0], after[0]) if after and is_right_sure else None


def _spoken_words(match: TextMatch, block: _Bounds) -> list[int]:
    """The words of a block without the passages that nobody reads."""
    letters = slice(match.word_starts[block.first], match.word_starts[block.end])
    num_spoken = sum(map(match.hypothesis_letters, block.pieces))
    free = num_spoken - int(match.is_equal[letters].sum())
    parts: list[list[int]] = [[]]
    missing: list[int] = []
    for word in range(block.first, block.end):
        if match.piece_of_word[word] < 0:
            missing.append(word)
            continue
        if missing and _is_passage(match, missing[0], missing[-1] + 1, free):
            parts.append([])
        else:
            parts[-1] += missing
        parts[-1].append(word)
        missing = []
    if missing and not _is_passage(match, missing[0], missing[-1] + 1, free):
        parts[-1] += missing
    if len(parts) > 1:
        parts = [part for part in parts if _num_letters(match, part) > _STRAY_LETTERS]
    return [word for part in parts for word in part]


def _num_letters(match: TextMatch, words: Sequence[int]) -> int:
    return sum(match.num_letters(word, word + 1) for word in words)


def _is_passage(match: TextMatch, first: int, end: int, free: int) -> bool:
    """Whether words without a partner are not read.

    Args:
        free: letters of the model there that are no words of the text. Many of them are these
            words, wrongly recognized.
    """
    num_letters = match.num_letters(first, end)
    return num_letters >= _PASSAGE_LETTERS and free <= _FREE_SHARE * num_letters

"""Segments of a recording with their part of its transcript.

A recording is cut at pauses into pieces, and each piece is transcribed. Where the transcript fits
what the model wrote, the words of the text are divided among the pieces. A border between two
pieces is kept where a word beside it is certain; else both become one segment, with all words
between the next certain borders. So no segment gets the words of another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.corpus.transcript_form import clean_text
from moonshine_tune.data.alignment.match import SURE_SHARE, SpokenPiece, TextMatch, match_text
from moonshine_tune.data.alignment.text_words import TextWord

LITTLE_AGREEMENT = "too little agreement"
"""The problem of a segment whose text the model does not recognize."""

# Models make up a short word, such as "you", for a breath or a noise.
_MADE_UP_LETTERS = 5
# About two words. Fewer letters of the text at a border may be spoken and not recognized.
_FEW_LETTERS = 12
# More than about four words in a row are a passage that nobody reads, if the model wrote at most
# this share of their letters there.
_PASSAGE_LETTERS, _FREE_SHARE = 24, 0.25
# So few letters on one side of such a passage belong to it, and are the same by accident.
_STRAY_LETTERS = 3


@dataclass(frozen=True)
class AlignedSegment:
    """A span of a recording and its part of the text.

    Attributes:
        text: as the transcript has it, with single spaces; empty where it has nothing.
        hypothesis: what the model wrote.
        words: first and end in the words of the text.
        pause_s: length of the pause around its end.
        num_equal: letters of text and hypothesis that are the same.
        num_letters: letters of the longer of both.
        is_sure: whether the first, and the last, word is recognized at its place.
        problem: why it is left out; None if it is kept.
    """

    start_s: float
    end_s: float
    text: str
    hypothesis: str
    words: tuple[int, int]
    pause_s: float
    num_equal: int
    num_letters: int
    is_sure: tuple[bool, bool]
    problem: str | None = None

    @property
    def length_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s

    @property
    def agreement(self) -> float:
        """Share of the letters of text and hypothesis that are the same, 0 to 1."""
        return self.num_equal / max(self.num_letters, 1)


@dataclass(frozen=True)
class DividedText:
    """A transcript divided among the segments of its recording.

    Attributes:
        segments: in order.
        unread: first and end in the text of each passage that nobody reads.
        num_spoken, num_letters: letters that the model wrote, and of the text.
    """

    segments: tuple[AlignedSegment, ...]
    unread: tuple[tuple[int, int], ...]
    num_spoken: int
    num_letters: int

    @property
    def fit(self) -> float:
        """Share of the shorter of both that agrees in segments of which half agrees, 0 to 1.

        Right texts of a recording with a heavy accent have half, texts of another a twentieth.
        """
        agreed = (item.num_equal for item in self.segments if item.agreement >= SURE_SHARE)
        return sum(agreed) / max(min(self.num_spoken, self.num_letters), 1)


def divide_text(
    pieces: Sequence[SpokenPiece], text: str, words: Sequence[TextWord], normalizer: Normalizer
) -> DividedText:
    """Divide a text among the pieces of its recording.

    Args:
        words: `text_words` of the text.
    """
    match = match_text(pieces, words, normalizer)
    used: set[int] = set()
    segments = []
    for block in _blocks(match):
        members = _spoken_words(match, block)
        used.update(members)
        segments.append(_segment(match, text, block, members))
    unread = _runs([word.letters != "" and index not in used for index, word in enumerate(words)])
    return DividedText(
        tuple(segments),
        tuple((words[first].start, words[last].end) for first, last in unread),
        len(match.piece_of_letter),
        len(match.is_equal),
    )


def _runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """First and last index of each run of true flags."""
    steps = np.diff(np.concatenate([[0], np.asarray(flags, dtype=np.int8), [0]]))
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    return [(int(start), int(end) - 1) for start, end in zip(starts, ends, strict=True)]


# --- borders


class _Block(NamedTuple):
    """Pieces between two certain borders, and the words between them."""

    pieces: list[int]
    first: int
    end: int


def _blocks(match: TextMatch) -> Iterator[_Block]:
    """All pieces with speech, cut where a word beside a border is certain.

    A piece for which the model wrote next to nothing is in none, unless words of the text are left
    for it.
    """
    pieces: list[int] = []
    skipped: list[int] = []
    first = 0
    for piece in range(len(match.pieces)):
        if match.ranges[piece] is None and match.pieces[piece].num_written <= _MADE_UP_LETTERS:
            skipped.append(piece)
            continue
        if pieces and (cut := _cut(match, pieces[-1], piece)) is not None:
            yield _Block(pieces, first, cut[0])
            if skipped and cut[0] < cut[1]:
                yield _Block(skipped, *cut)
            pieces, first = [], cut[1]
        elif not pieces and match.is_sure_at(piece, end=False):
            first = (match.ranges[piece] or (0,))[0]
        pieces.append(piece)
        skipped = []
    if pieces:
        last = match.ranges[pieces[-1]]
        is_sure = last is not None and match.is_sure_at(pieces[-1], end=True)
        yield _Block(pieces, first, match.behind(last[1]) if last and is_sure else len(match.words))


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


def _spoken_words(match: TextMatch, block: _Block) -> list[int]:
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


def _segment(match: TextMatch, text: str, block: _Block, members: Sequence[int]) -> AlignedSegment:
    """The segment of a block."""
    parts = []
    num_equal = num_letters = 0
    for first, last in _stretches(members):
        parts.append(text[match.words[first].start : match.words[last].end])
        letters = slice(match.word_starts[first], match.word_starts[last + 1])
        num_equal += int(match.is_equal[letters].sum())
        num_letters += match.num_letters(first, last + 1)
    spoken = sum(map(match.hypothesis_letters, block.pieces))
    first_piece, last_piece = block.pieces[0], block.pieces[-1]
    hypotheses = (match.pieces[piece].hypothesis for piece in block.pieces)
    return AlignedSegment(
        match.pieces[first_piece].start_s,
        match.pieces[last_piece].end_s,
        clean_text(" ".join(parts)) if num_letters else "",
        " ".join(filter(None, hypotheses)),
        (block.first, block.end),
        match.pieces[last_piece].pause_s,
        num_equal,
        max(num_letters, spoken),
        (match.is_sure_at(first_piece, end=False), match.is_sure_at(last_piece, end=True)),
    )


def _stretches(members: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    start = 0
    for position in range(1, len(members) + 1):
        if position == len(members) or members[position] != members[position - 1] + 1:
            yield members[start], members[position - 1]
            start = position

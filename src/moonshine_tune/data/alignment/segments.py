"""Segments of a recording with their part of its transcript.

A recording is cut at pauses into pieces, and each piece is transcribed. Where the transcript fits
what the model wrote, the words of the text are divided among the pieces. A border between two
pieces is kept where a word beside it is certain; else both become one segment, with all words
between the next certain borders. So no segment gets the words of another. Stretches in which the
model writes too little of the text are divided again, by how likely it finds each range of words.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.corpus.transcript_form import clean_text
from moonshine_tune.data.alignment.again import RateWords, divide_again, num_equal_letters
from moonshine_tune.data.alignment.blocks import PieceBlock, blocks_of
from moonshine_tune.data.alignment.match import SURE_SHARE, SpokenPiece, TextMatch, match_text
from moonshine_tune.data.alignment.text_words import TextWord

LITTLE_AGREEMENT = "too little agreement"
"""The problem of a segment whose text the model does not recognize."""


# Of another text, a twentieth agrees; of the right one, half, also with a heavy accent.
_FITTING_SHARE = 0.15


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

    @property
    def is_fitting(self) -> bool:
        """Whether the text is that of the recording."""
        return self.fit >= _FITTING_SHARE


def divide_text(
    pieces: Sequence[SpokenPiece],
    text: str,
    words: Sequence[TextWord],
    normalizer: Normalizer,
    rate: RateWords | None = None,
    progress: Progress | None = None,
) -> DividedText:
    """Divide a text among the pieces of its recording.

    Args:
        words: `text_words` of the text.
        rate: how likely words are in a piece; None divides by letters alone.
    """
    match = match_text(pieces, words, normalizer)
    blocks = blocks_of(match)
    divided = _divided(match, text, blocks)
    if rate is None or not divided.is_fitting:
        return divided
    blocks = divide_again(match, blocks, rate, progress or SilentProgress())
    return _divided(match, text, blocks)


def _divided(match: TextMatch, text: str, blocks: Sequence[PieceBlock]) -> DividedText:
    words = match.words
    used = {word for block in blocks for word in block.spoken}
    segments = [_segment(match, text, block) for block in blocks]
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


def _segment(match: TextMatch, text: str, block: PieceBlock) -> AlignedSegment:
    """The segment of a block."""
    parts = [
        text[match.words[first].start : match.words[last].end]
        for first, last in _stretches(block.spoken)
    ]
    letters = [match.words[word].letters for word in block.spoken]
    spoken = match.letters_spoken(block.pieces)
    num_equal, num_letters = num_equal_letters(spoken, letters), len("".join(letters))
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
        max(num_letters, len(spoken)),
        block.is_sure,
    )


def _stretches(members: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    start = 0
    for position in range(1, len(members) + 1):
        if position == len(members) or members[position] != members[position - 1] + 1:
            yield members[start], members[position - 1]
            start = position

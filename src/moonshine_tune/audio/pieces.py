"""Pieces of a recording of any length, as a model takes them, with a few blocks in memory.

A piece ends in a pause, where no word is cut, and silence between pieces is left out: models make
up words on it. Where a piece starts depends on the audio behind the last one alone, so the pieces
of a recording are the same when it is read from the end of any of them.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.audio.segment import first_piece, is_silent

MAX_PIECE_S = 16.0
"""Longest piece, in seconds; one of half of this is cut off where there is a pause."""

BLOCK_S = 30.0
# Read on both sides of a block and cut off: a resampler is wrong at the ends of what it gets.
_MARGIN_S = 0.5
MAX_READ_S = BLOCK_S + 2 * _MARGIN_S
"""More is never read at once."""

_KEPT_BLOCKS = 3

LoadSpan = Callable[[float, float], Samples]


@dataclass(frozen=True)
class Piece:
    """A span of a recording, in seconds, with its samples.

    Attributes:
        next_s: where the search for the next piece starts.
    """

    start_s: float
    end_s: float
    samples: Samples
    next_s: float


class BlockReader:
    """Any span of a recording, read in blocks of which the last few are kept.

    Args:
        load: samples of a span of at most `MAX_READ_S` seconds, mono 16 kHz.
        seconds: length of the recording.
    """

    def __init__(self, load: LoadSpan, seconds: float) -> None:
        self.seconds = seconds
        self._load = load
        self._blocks: OrderedDict[int, Samples] = OrderedDict()

    def read(self, start_s: float, end_s: float) -> Samples:
        """Samples of a span; fewer where the recording ends before it."""
        first, last = round(start_s * SAMPLE_RATE_HZ), round(end_s * SAMPLE_RATE_HZ)
        size = round(BLOCK_S * SAMPLE_RATE_HZ)
        parts = []
        for number in range(first // size, (max(last, first + 1) - 1) // size + 1):
            block = self._block(number)
            parts.append(block[max(first - number * size, 0) : max(last - number * size, 0)])
        return np.concatenate(parts)

    def _block(self, number: int) -> Samples:
        if number not in self._blocks:
            self._blocks[number] = self._read_block(number)
            while len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        return self._blocks[number]

    def _read_block(self, number: int) -> Samples:
        start = number * BLOCK_S
        if start >= self.seconds:
            return np.zeros(0, dtype=np.float32)
        lead = _MARGIN_S if number else 0.0
        samples = self._load(start - lead, min(start + BLOCK_S + _MARGIN_S, self.seconds))
        skipped = round(lead * SAMPLE_RATE_HZ)
        return samples[skipped : skipped + round(BLOCK_S * SAMPLE_RATE_HZ)]


def speech_pieces(
    reader: BlockReader, *, start_s: float = 0.0, max_s: float = MAX_PIECE_S
) -> Iterator[Piece]:
    """The pieces of a recording that hold sound, in order; a silent recording has none.

    Args:
        start_s: where to start: 0, or `next_s` of an earlier piece.
        max_s: longest piece in seconds.
    """
    position = start_s
    if position == 0.0 and reader.seconds <= max_s:
        samples = reader.read(0.0, reader.seconds)
        if not is_silent(samples):
            yield Piece(0.0, reader.seconds, samples, reader.seconds)
        return
    while position < reader.seconds:
        # A cut looks at what follows it too, so that a rest is not too short to be understood.
        window = reader.read(position, min(position + 2 * max_s, reader.seconds))
        if not len(window):
            return
        is_end = position + 2 * max_s >= reader.seconds
        span, advance_s = first_piece(window, max_s=max_s, is_end=is_end)
        if span is not None:
            start, end = (round(time * SAMPLE_RATE_HZ) for time in span)
            yield Piece(
                position + span[0], position + span[1], window[start:end], position + advance_s
            )
        position += advance_s

"""Any span of a recording of any length, with a few blocks of it in memory."""

import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moonshine_tune.audio.io import audio_info, load_audio
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.audio.segment import levels_db
from moonshine_tune.core.errors import AudioError
from moonshine_tune.core.progress import Progress

BLOCK_S = 30.0
# Read on both sides of a block and cut off: a resampler is wrong at the ends of what it gets.
_MARGIN_S = 0.5
MAX_READ_S = BLOCK_S + 2 * _MARGIN_S
"""More is never read at once."""

_KEPT_BLOCKS = 3

LoadSpan = Callable[[float, float], Samples]
Levels = npt.NDArray[np.float32]


class BlockReader:
    """A recording, read in blocks of which the last few are kept.

    Args:
        load: samples of a span of at most `MAX_READ_S` seconds, mono 16 kHz.
        seconds: length of the recording.
        path: of its file, for messages.
    """

    def __init__(self, load: LoadSpan, seconds: float, path: Path | None = None) -> None:
        self.seconds, self.path = seconds, path
        self._load = load
        self._blocks: OrderedDict[int, Samples] = OrderedDict()

    @classmethod
    def of_file(
        cls,
        path: Path,
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        channel: int | None = None,
    ) -> "BlockReader":
        """A reader of a file, or of a span of it; its times count from the start of the span.

        Args:
            channel: as of `load_audio`.

        Raises:
            AudioError: the file cannot be opened, or there is nothing in the span.
        """
        seconds = (audio_info(path).seconds if end_s is None else end_s) - start_s
        if seconds <= 0:
            raise AudioError("no samples", where=path, hint="leave it out")

        def load(first_s: float, last_s: float) -> Samples:
            # Without an end where it is that of the file, whose header may round it.
            is_end = end_s is None and last_s >= seconds
            return load_audio(
                path,
                start=start_s + first_s,
                end=None if is_end else start_s + last_s,
                channel=channel,
            )

        return cls(load, seconds, path)

    def read(self, start_s: float, end_s: float) -> Samples:
        """Samples of a span; fewer where the recording ends before it."""
        first, last = round(start_s * SAMPLE_RATE_HZ), round(end_s * SAMPLE_RATE_HZ)
        size = round(BLOCK_S * SAMPLE_RATE_HZ)
        parts = []
        for number in range(first // size, (max(last, first + 1) - 1) // size + 1):
            block = self._block(number)
            parts.append(block[max(first - number * size, 0) : max(last - number * size, 0)])
        return np.concatenate(parts)

    def levels(self, progress: Progress) -> Levels:
        """Energy of each 10 ms frame in dB; 1.4 MB for an hour."""
        count = max(math.ceil(self.seconds / BLOCK_S), 1)
        parts = []
        with progress.stage(f"reading {self.path.name if self.path else ''}", count) as stage:
            for number in range(count):
                parts.append(levels_db(self._block(number)).astype(np.float32))
                stage.advance()
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

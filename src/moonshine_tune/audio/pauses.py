"""Cut a long recording at its pauses, with the levels of its 10 ms frames alone in memory.

The thresholds follow the recording: speakers, rooms and gains change within an hour. The pieces
cover the recording without gap or overlap. Silences of more than a few seconds are pieces of their
own.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from moonshine_tune.audio.blocks import BlockReader, Levels
from moonshine_tune.audio.measure import SILENCE_DBFS
from moonshine_tune.audio.segment import (
    HOP_S,
    Pause,
    check_lengths,
    cuts_between,
    pause_threshold_db,
    pauses_of,
    smoothed_db,
)
from moonshine_tune.core.errors import AudioError
from moonshine_tune.core.progress import Progress, SilentProgress

# The floor and the level of speech are those of a minute around each moment.
_WINDOW_S, _WINDOW_HOP_S = 60.0, 10.0
# Of a minute with a single command of two seconds, this is still speech.
_SPEECH_PERCENTILE = 98.0
# Levels of single frames of noise vary by several dB.
_SMOOTHING_S = 0.05
# Dithered silence is below, the softest speech that a model can read is above.
_INAUDIBLE_DBFS = -80.0
# Without any pause, nothing is spoken in a recording whose loudest 10 ms are below this.
_MUTED_DBFS = -60.0
# A click in silence is shorter; the shortest words are not.
_CLICK_S = 0.1
# A longer silence is cut out; so much of it stays beside the speech, as in recorded corpora.
_LONG_SILENCE_S, _MARGIN_S = 2.0, 0.3


@dataclass(frozen=True)
class Span:
    """A piece of a recording, in seconds from its start.

    Attributes:
        has_speech: False where every sound in it is as quiet as the pauses, or a click.
        pause_s: length of the pause around its end; 0 where it ends without one.
    """

    start_s: float
    end_s: float
    has_speech: bool
    pause_s: float = 0.0

    @property
    def length_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Breaks:
    """Pauses in which a recording is cut although a piece could be longer.

    Attributes:
        pause_s: each that is as long, as between sentences and speakers.
        apart_s: shortest piece between two of them.
    """

    pause_s: float
    apart_s: float


def cut_at_pauses(
    reader: BlockReader,
    *,
    max_s: float,
    min_s: float = 1.0,
    breaks: Breaks | None = None,
    progress: Progress | None = None,
) -> Iterator[Span]:
    """Cut a recording of any length into pieces of at most `max_s`.

    Cuts are chosen as by `split_at_pauses`: the longest pause between half of `max_s` and `max_s`,
    else one before, else the quietest moment. Memory: 1.4 MB for an hour.

    Args:
        max_s: longest piece in seconds, never exceeded by a piece with speech.
        min_s: shortest piece in seconds, at most half of `max_s`; kept wherever the recording
            itself is that long.
        breaks: None makes as few pieces as `max_s` allows.
        progress: shows how far the recording is read.

    Yields:
        Contiguous spans, from 0 to the end of the recording.

    Raises:
        AudioError: the recording cannot be read to its end, or the lengths are impossible.
    """
    check_lengths(min_s, max_s)
    levels = reader.levels(progress or SilentProgress())
    if not len(levels):
        raise AudioError("no samples", where=reader.path, hint="leave it out")
    yield from cut_levels(levels, reader.seconds, (min_s, max_s), breaks)


def cut_levels(
    levels: Levels,
    total_s: float,
    lengths_s: tuple[float, float],
    breaks: Breaks | None = None,
) -> Iterator[Span]:
    """`cut_at_pauses` of a recording whose levels are known.

    Args:
        lengths_s: shortest and longest piece.
    """
    smooth = smoothed_db(levels, _SMOOTHING_S)
    is_low = smooth < _thresholds_db(smooth)
    pauses, quiet = pauses_of(is_low), smoothed_db(levels)
    is_speech = _without_clicks(~is_low)
    num_speech = np.concatenate([[0], np.cumsum(is_speech)])
    long_pauses = [
        pause.middle_s for pause in pauses if breaks and pause.length_s >= breaks.pause_s
    ]
    apart_s = breaks.apart_s if breaks else lengths_s[0]
    for start_s, end_s, is_silence in _stretches(is_speech, total_s, lengths_s[0]):
        cuts = [start_s, end_s]
        if not is_silence:
            cuts = [start_s]
            for part_s in _far_apart(long_pauses, start_s, end_s, apart_s):
                cuts += cuts_between(cuts[-1], part_s, pauses, quiet, lengths_s)[1:]
        for first_s, last_s in pairwise(cuts):
            first, last = (min(round(cut / HOP_S), len(levels)) for cut in (first_s, last_s))
            has_speech = bool(num_speech[last] > num_speech[first])
            yield Span(first_s, last_s, has_speech, _pause_at(last_s, pauses))


def _pause_at(cut_s: float, pauses: Sequence[Pause]) -> float:
    """Length of the pause around a cut, in seconds."""
    index = bisect_right(pauses, cut_s, key=lambda pause: pause.start_s) - 1
    return pauses[index].length_s if index >= 0 and pauses[index].end_s >= cut_s else 0.0


def _far_apart(
    cuts: Sequence[float], start_s: float, end_s: float, apart_s: float
) -> Iterator[float]:
    """The cuts inside a stretch that leave `apart_s` on both sides, and its end."""
    for cut in cuts[bisect_left(cuts, start_s) : bisect_right(cuts, end_s - apart_s)]:
        if cut - start_s >= apart_s:
            yield cut
            start_s = cut
    yield end_s


def _thresholds_db(levels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The level below which each frame is a pause, from the minute around it.

    A minute without speech, or without a pause, takes it from the nearest others.
    """
    half, hop = round(_WINDOW_S / 2 / HOP_S), round(_WINDOW_HOP_S / HOP_S)
    centers = np.arange(0, len(levels), hop)
    known = [
        (center, threshold)
        for center in centers.tolist()
        if (
            threshold := pause_threshold_db(
                levels[max(center - half, 0) : center + half],
                speech_percentile=_SPEECH_PERCENTILE,
            )
        )
        is not None
    ]
    if not known:
        # Steady sound may be speech without a pause, unless it is the noise of a muted microphone.
        return np.full(len(levels), np.inf if levels.max() < _MUTED_DBFS else SILENCE_DBFS)
    at, thresholds = zip(*known, strict=True)
    followed = np.interp(np.arange(len(levels)), at, thresholds)
    return np.asarray(np.maximum(followed, _INAUDIBLE_DBFS), dtype=np.float64)


def _without_clicks(is_speech: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The same without runs that are too short for a word."""
    kept = np.zeros_like(is_speech)
    for run in pauses_of(is_speech, _CLICK_S):
        kept[round(run.start_s / HOP_S) : round(run.end_s / HOP_S)] = True
    return kept


def _stretches(
    is_speech: npt.NDArray[np.bool_], total_s: float, min_s: float
) -> Iterator[tuple[float, float, bool]]:
    """Start and end of stretches with speech and of the long silences between them, in order.

    A silence is as long as leaves `min_s` for the speech beside it.
    """
    position_s = 0.0
    for pause in _long_silences(is_speech, total_s, min_s):
        if pause.start_s > position_s:
            yield position_s, pause.start_s, False
        yield pause.start_s, pause.end_s, True
        position_s = pause.end_s
    if position_s < total_s:
        yield position_s, total_s, False


def _long_silences(
    is_speech: npt.NDArray[np.bool_], total_s: float, min_s: float
) -> Iterator[Pause]:
    position_s = 0.0
    for pause in pauses_of(~is_speech, _LONG_SILENCE_S):
        is_last = pause.end_s >= len(is_speech) * HOP_S
        start_s, end_s = pause.start_s + _MARGIN_S, pause.end_s - _MARGIN_S
        start_s = max(start_s, position_s + min_s) if pause.start_s else 0.0
        end_s = total_s if is_last else min(end_s, total_s - min_s)
        if end_s - start_s >= min_s:
            yield Pause(start_s, end_s)
            position_s = end_s

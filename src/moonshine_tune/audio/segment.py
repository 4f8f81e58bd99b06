"""Cut a long recording at its pauses, by energy alone.

Models take clips of a few seconds, and a cut inside a word loses the word on both sides. The pieces
cover the recording without gap or overlap.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.core.errors import AudioError

HOP_S = 0.01
# A pause is quieter than this share of the way (in dB) from the noise floor to the speech level.
# Higher, and soft fricatives count as pauses; lower, and breathing ends a pause.
_THRESHOLD_SHARE = 0.35
# With less contrast between floor and speech, speech and noise or pauses cannot be separated.
_MIN_CONTRAST_DB = 6.0
_LEAST_SPEECH_S = 0.15
# The closure before a "t" or "k" lasts up to about 0.12 s and is no pause.
MIN_PAUSE_S = 0.15
# Without a pause, the cut is at the lowest energy, averaged over about a syllable's edge.
_QUIET_WINDOW_S = 0.1
SILENCE_DB = -100.0


@dataclass(frozen=True)
class Pause:
    """A quiet span of a recording, in seconds from its start."""

    start_s: float
    end_s: float

    @property
    def middle_s(self) -> float:
        """Where to cut."""
        return (self.start_s + self.end_s) / 2

    @property
    def length_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


def find_pauses(
    samples: Samples, sample_rate_hz: int = SAMPLE_RATE_HZ, *, min_pause_s: float = MIN_PAUSE_S
) -> tuple[Pause, ...]:
    """The pauses of a recording, in order, accurate to 10 ms.

    The threshold lies between the recording's own noise floor and its own speech level, so its
    loudness and steady noise do not matter. A recording of constant loudness has no pauses.

    Args:
        samples: mono, shape (num_samples,).
        min_pause_s: a shorter quiet span is no pause.

    Raises:
        AudioError: the samples are not one channel of finite numbers, or the rate is not positive.
    """
    levels = levels_db(samples, sample_rate_hz)
    threshold = pause_threshold_db(levels)
    return () if threshold is None else pauses_of(levels < threshold, min_pause_s)


def pause_threshold_db(
    levels: npt.NDArray[np.floating], *, speech_percentile: float = 95.0
) -> float | None:
    """What is quieter is a pause, in dB; None where floor and speech cannot be separated.

    Args:
        levels: of 10 ms frames, in dB.
        speech_percentile: its level is that of speech. The louder rest is clicks, where there is
            much speech, and all of the speech, where there is little.
    """
    # Digital silence (a file padded with zeros) does not show the noise of the room.
    nonzero = levels[levels > SILENCE_DB]
    if not len(nonzero):
        return None
    floor, speech = np.percentile(nonzero, [5, speech_percentile])
    if len(nonzero) < len(levels):
        # Zeros are pauses already: the floor must not rise into the speech because of them.
        floor = min(floor, speech - 2 * _MIN_CONTRAST_DB)
    if speech - floor < _MIN_CONTRAST_DB:
        # Little speech in a long silence: it is still far louder, for longer than a click.
        count = round(_LEAST_SPEECH_S / HOP_S)
        speech = np.sort(nonzero)[-min(count, len(nonzero))]
        if speech - floor < 2 * _MIN_CONTRAST_DB:
            return None
    return float(floor + _THRESHOLD_SHARE * (speech - floor))


def pauses_of(is_low: npt.NDArray[np.bool_], min_pause_s: float = MIN_PAUSE_S) -> tuple[Pause, ...]:
    """The spans of low 10 ms frames that last for at least `min_pause_s`, in order."""
    steps = np.diff(np.concatenate([[0], is_low.astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    return tuple(
        Pause(float(start) * HOP_S, float(end) * HOP_S)
        for start, end in zip(starts, ends, strict=True)
        if (end - start) * HOP_S >= min_pause_s - HOP_S / 2
    )


def split_at_pauses(
    samples: Samples,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    *,
    max_s: float = 10.0,
    min_s: float = 1.0,
) -> tuple[tuple[float, float], ...]:
    """Cut a recording into pieces of at most `max_s`, in the middle of its pauses.

    The next cut is in the longest pause between half of `max_s` and `max_s` after the last one;
    else in the longest between `min_s` and half of `max_s`; else, without a pause, at the lowest
    energy. A rest of at most `max_s` is not cut.

    Args:
        samples: mono, shape (num_samples,).
        max_s: longest piece in seconds, never exceeded.
        min_s: shortest piece in seconds, at most half of `max_s`; kept wherever the recording
            itself is that long.

    Returns:
        `(start_s, end_s)` of each piece: contiguous, from 0 to the end of the recording. Empty for
        a recording without samples.

    Raises:
        AudioError: the samples are not one channel of finite numbers, or the lengths are
            impossible.
    """
    check_lengths(min_s, max_s)
    levels = levels_db(samples, sample_rate_hz)
    if not len(levels):
        return ()
    total_s = len(samples) / sample_rate_hz
    pauses = find_pauses(samples, sample_rate_hz)
    quiet = smoothed_db(levels)
    return tuple(pairwise(cuts_between(0.0, total_s, pauses, quiet, (min_s, max_s))))


def check_lengths(min_s: float, max_s: float) -> None:
    """Refuse lengths of pieces that cannot be kept.

    Raises:
        AudioError: the shortest is not above 0, or more than half of the longest.
    """
    if not 0 < min_s <= max_s / 2:
        raise AudioError(
            f"pieces of {min_s:g} to {max_s:g} s cannot be cut",
            hint="choose a shortest length above 0 and at most half of the longest",
        )


def cuts_between(
    start_s: float,
    end_s: float,
    pauses: Sequence[Pause],
    quiet: npt.NDArray[np.floating],
    lengths_s: tuple[float, float],
) -> list[float]:
    """Start, cuts and end of a stretch of a recording, as `split_at_pauses` chooses them.

    Args:
        start_s, end_s, pauses: in seconds from the start of the recording.
        quiet: `smoothed_db` of the recording.
        lengths_s: shortest and longest piece.
    """
    cuts = [start_s]
    while end_s - cuts[-1] > lengths_s[1]:
        cuts.append(_next_cut(cuts[-1], end_s, pauses, quiet, lengths_s))
    return [*cuts, end_s]


def _next_cut(
    start_s: float,
    total_s: float,
    pauses: Sequence[Pause],
    quiet: npt.NDArray[np.floating],
    lengths_s: tuple[float, float],
) -> float:
    min_s, max_s = lengths_s
    # More than max_s ≥ 2 · min_s is left, so a cut that leaves at least min_s always exists.
    latest = min(start_s + max_s, total_s - min_s)
    middle = min(start_s + max_s / 2, latest)
    for earliest, bound in ((middle, latest), (start_s + min_s, middle)):
        first = bisect_left(pauses, earliest, key=lambda pause: pause.middle_s)
        last = bisect_right(pauses, bound, key=lambda pause: pause.middle_s)
        inside = pauses[first:last]
        if inside:
            return max(inside, key=lambda pause: (pause.length_s, pause.start_s)).middle_s
    first, last = int(np.ceil(middle / HOP_S)), int(latest / HOP_S)
    if last <= first:
        return latest
    return float(first + np.argmin(quiet[first:last])) * HOP_S


def levels_db(samples: Samples, sample_rate_hz: int = SAMPLE_RATE_HZ) -> npt.NDArray[np.float64]:
    """Energy of each 10 ms frame in dB; the last frame may be shorter."""
    if sample_rate_hz < 1 / HOP_S:
        raise AudioError(f"a sample rate of {sample_rate_hz} Hz is too low to find pauses")
    if samples.ndim != 1:
        raise AudioError(f"one channel is needed, not samples of shape {samples.shape}")
    if not len(samples):
        return np.empty(0)
    if not np.isfinite(samples).all():
        raise AudioError("some samples are not numbers")
    # Frame edges are rounded one by one: a rounded frame length would drift at odd rates.
    edges = np.round(np.arange(0, len(samples) / sample_rate_hz, HOP_S) * sample_rate_hz)
    starts = np.unique(np.minimum(edges.astype(np.int64), len(samples) - 1))
    sums = np.add.reduceat(np.square(samples, dtype=np.float64), starts)
    lengths = np.diff(np.append(starts, len(samples)))
    return np.asarray(np.maximum(10 * np.log10(sums / lengths + 1e-20), SILENCE_DB))


def smoothed_db(
    levels: npt.NDArray[np.floating], window_s: float = _QUIET_WINDOW_S
) -> npt.NDArray[np.float64]:
    """Energy in dB averaged over a window centered on each 10 ms frame."""
    width = round(window_s / HOP_S)
    padded = np.pad(10 ** (levels / 10), (width // 2, width - width // 2), mode="edge")
    total = np.concatenate([[0.0], np.cumsum(padded)])
    return np.asarray(10 * np.log10((total[width:-1] - total[: -width - 1]) / width + 1e-20))

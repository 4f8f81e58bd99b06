"""Measurements of one clip: loudness, clipping, silence. Pure functions on mono arrays."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_FRAME_S = 0.010
# A sample this near to full scale has hit the ceiling of its converter ...
_CEILING = 0.999
# ... if its neighbour has too: a recording normalized to full scale touches it in single samples.
_RUN = 2
# Below this, a frame holds only the noise of an open or muted microphone.
SILENCE_DBFS = -60.0
# A frame this far below the loudest one is silence between or around words, in a loud recording.
_BELOW_LOUDEST_DB = 40.0
_FLOOR_DBFS = -120.0

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ClipMeasures:
    """What one clip measures.

    Attributes:
        seconds: length.
        peak: largest absolute sample; 1.0 is full scale.
        rms_dbfs: loudness of the whole clip, dB of full scale, -120 at least.
        loudest_dbfs: loudness of its loudest 10 ms.
        clipped_fraction: share of samples that are cut off at full scale, 0 to 1.
        leading_silence_s, trailing_silence_s: before the first and after the last frame that is
            not silent; a silent clip is all leading silence.
    """

    seconds: float
    peak: float
    rms_dbfs: float
    loudest_dbfs: float
    clipped_fraction: float
    leading_silence_s: float
    trailing_silence_s: float

    @property
    def is_silent(self) -> bool:
        """Whether not even its loudest 10 ms rise above the noise of a muted microphone."""
        return self.loudest_dbfs < SILENCE_DBFS

    @property
    def active_s(self) -> float:
        """Seconds between the silences at both ends."""
        return max(self.seconds - self.leading_silence_s - self.trailing_silence_s, 0.0)


def measure_clip(samples: Samples, sample_rate_hz: int) -> ClipMeasures:
    """Measure a mono clip.

    Args:
        samples: float32 [n], full scale 1.0; n may be 0.
    """
    if not len(samples):
        return ClipMeasures(0.0, 0.0, _FLOOR_DBFS, _FLOOR_DBFS, 0.0, 0.0, 0.0)
    seconds = len(samples) / sample_rate_hz
    levels = frame_levels_dbfs(samples, max(round(_FRAME_S * sample_rate_hz), 1))
    loudest = float(levels.max())
    leading, trailing = _silence_at_ends(levels, seconds)
    return ClipMeasures(
        seconds=seconds,
        peak=float(np.abs(samples).max()),
        rms_dbfs=_dbfs(float(np.mean(np.square(samples, dtype=np.float64)))),
        loudest_dbfs=loudest,
        clipped_fraction=clipped_fraction(samples),
        leading_silence_s=leading,
        trailing_silence_s=trailing,
    )


def clipped_fraction(samples: Samples) -> float:
    """Share of samples (0 to 1) that lie at or beyond full scale beside another one that does."""
    if len(samples) < _RUN:
        return 0.0
    high = np.abs(samples) >= _CEILING
    pairs = high[:-1] & high[1:]
    inside = np.zeros(len(samples), dtype=bool)
    inside[:-1] |= pairs
    inside[1:] |= pairs
    return float(inside.mean())


def frame_levels_dbfs(samples: Samples, frame: int) -> npt.NDArray[np.float64]:
    """Loudness of each frame of `frame` samples, dB of full scale; the last may be shorter."""
    starts = np.arange(0, len(samples), frame)
    power = np.add.reduceat(np.square(samples, dtype=np.float64), starts)
    counts = np.diff(np.append(starts, len(samples)))
    levels: npt.NDArray[np.float64] = 10.0 * np.log10(
        np.maximum(power / counts, 10.0 ** (_FLOOR_DBFS / 10.0))
    )
    return levels


def _silence_at_ends(levels: npt.NDArray[np.float64], seconds: float) -> tuple[float, float]:
    bound = max(SILENCE_DBFS, float(levels.max()) - _BELOW_LOUDEST_DB)
    heard = np.flatnonzero(levels >= bound)
    if not len(heard):
        return seconds, 0.0
    leading = float(heard[0]) * _FRAME_S
    trailing = max(seconds - float(heard[-1] + 1) * _FRAME_S, 0.0)
    return leading, trailing


def _dbfs(power: float) -> float:
    return float(10.0 * np.log10(max(power, 10.0 ** (_FLOOR_DBFS / 10.0))))

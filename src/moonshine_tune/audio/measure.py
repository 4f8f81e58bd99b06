"""Measurements of one clip: level, clipping, silence, noise, bandwidth. Pure functions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples

FRAME_S = 0.010
# A sample this near to full scale has hit the ceiling of its converter ...
_CEILING = 0.999
# ... if its neighbor has too: a recording normalized to full scale touches it in single samples.
_CLIPPED_RUN = 2
# Below this, a frame holds only the noise of an open or muted microphone.
SILENCE_DBFS = -60.0
# A frame this far below the loudest one is silence between or around words, in a loud recording.
_SILENCE_BELOW_LOUDEST_DB = 40.0
# A frame this far below the loudest one is a pause: it does not count as speech.
PAUSE_BELOW_LOUDEST_DB = 30.0
LOWEST_DBFS = -120.0
# Even fast speech leaves a tenth of its frames to closures and gaps between words.
_NOISE_PERCENTILE = 10.0
_MAX_SNR_DB = 60.0
_SPECTRUM_WINDOW = 1024
# What lies this far below the strongest frequency was removed by a codec or a line.
NARROW_HZ = 4_200.0
"""Nothing above it: recorded at 8 kHz, over a telephone, or by a codec for speech."""
_BAND_EDGE_DB = 50.0


@dataclass(frozen=True)
class ClipMeasures:
    """Level, clipping and silence of one clip.

    Attributes:
        seconds: length.
        peak: largest absolute sample; 1.0 is full scale.
        rms_dbfs: level of the clip, dB of full scale, -120 at least.
        loudest_dbfs: level of its loudest 10 ms.
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
        """Whether its loudest 10 ms stay below the noise of a muted microphone."""
        return self.loudest_dbfs < SILENCE_DBFS

    @property
    def active_s(self) -> float:
        """Seconds between the silences at both ends."""
        return max(self.seconds - self.leading_silence_s - self.trailing_silence_s, 0.0)


@dataclass(frozen=True)
class RecordingQuality:
    """Estimates of how well a clip was recorded.

    Attributes:
        snr_db: speech frames against the quietest tenth of all frames, 0 to 60.
        dc_offset: mean of the samples, full scale 1.0.
        bandwidth_hz: highest frequency within 50 dB of the strongest; 8000 at most.
    """

    snr_db: float
    dc_offset: float
    bandwidth_hz: float

    @property
    def is_narrow(self) -> bool:
        """Whether the voice came through a telephone band, as at 8 kHz."""
        return self.bandwidth_hz < NARROW_HZ


def measure_clip(samples: Samples, sample_rate_hz: int) -> ClipMeasures:
    """Measure a mono clip.

    Args:
        samples: float32 [n], full scale 1.0; n may be 0.
    """
    if not len(samples):
        return ClipMeasures(0.0, 0.0, LOWEST_DBFS, LOWEST_DBFS, 0.0, 0.0, 0.0)
    seconds = len(samples) / sample_rate_hz
    levels = frame_levels_dbfs(samples, max(round(FRAME_S * sample_rate_hz), 1))
    leading, trailing = _silence_at_ends(levels, seconds)
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return ClipMeasures(
        seconds=seconds,
        peak=float(np.abs(samples).max()),
        rms_dbfs=float(10.0 * np.log10(max(power, 10.0 ** (LOWEST_DBFS / 10.0)))),
        loudest_dbfs=float(levels.max()),
        clipped_fraction=clipped_fraction(samples),
        leading_silence_s=leading,
        trailing_silence_s=trailing,
    )


def measure_quality(samples: Samples) -> RecordingQuality:
    """Estimate the quality of a mono clip at 16 kHz; all zero for an empty clip.

    The offset is removed before levels are measured, because it would count as noise.
    """
    if not len(samples):
        return RecordingQuality(0.0, 0.0, 0.0)
    offset = float(np.mean(samples, dtype=np.float64))
    centered = samples - np.float32(offset)
    levels = frame_levels_dbfs(centered, round(FRAME_S * SAMPLE_RATE_HZ))
    power = 10.0 ** (levels / 10.0)
    noise = float(np.percentile(power, _NOISE_PERCENTILE))
    speech = float(power[levels >= levels.max() - PAUSE_BELOW_LOUDEST_DB].mean())
    snr = 10.0 * np.log10(max(speech, 1e-12) / max(noise, 1e-12))
    return RecordingQuality(
        snr_db=round(float(np.clip(snr, 0.0, _MAX_SNR_DB)), 2),
        dc_offset=round(offset, 5),
        bandwidth_hz=_bandwidth(centered),
    )


def clipped_fraction(samples: Samples) -> float:
    """Share of samples (0 to 1) at or beyond full scale with a neighbor that is so too."""
    if len(samples) < _CLIPPED_RUN:
        return 0.0
    high = np.abs(samples) >= _CEILING
    pairs = high[:-1] & high[1:]
    clipped = np.zeros(len(samples), dtype=bool)
    clipped[:-1] |= pairs
    clipped[1:] |= pairs
    return float(clipped.mean())


def frame_levels_dbfs(samples: Samples, frame: int) -> npt.NDArray[np.float64]:
    """Level of each frame of `frame` samples, dB of full scale; the last frame may be shorter."""
    starts = np.arange(0, len(samples), frame)
    power = np.add.reduceat(np.square(samples, dtype=np.float64), starts)
    counts = np.diff(np.append(starts, len(samples)))
    levels: npt.NDArray[np.float64] = 10.0 * np.log10(
        np.maximum(power / counts, 10.0 ** (LOWEST_DBFS / 10.0))
    )
    return levels


def _silence_at_ends(levels: npt.NDArray[np.float64], seconds: float) -> tuple[float, float]:
    threshold = max(SILENCE_DBFS, float(levels.max()) - _SILENCE_BELOW_LOUDEST_DB)
    active = np.flatnonzero(levels >= threshold)
    if not len(active):
        return seconds, 0.0
    leading = float(active[0]) * FRAME_S
    trailing = max(seconds - float(active[-1] + 1) * FRAME_S, 0.0)
    return leading, trailing


def _bandwidth(samples: Samples) -> float:
    """From the mean spectrum of half-overlapping windows, Hz."""
    if len(samples) < _SPECTRUM_WINDOW:
        return SAMPLE_RATE_HZ / 2
    frames = np.lib.stride_tricks.sliding_window_view(samples, _SPECTRUM_WINDOW)
    frames = frames[:: _SPECTRUM_WINDOW // 2]
    spectrum = np.square(np.abs(np.fft.rfft(frames * np.hanning(_SPECTRUM_WINDOW), axis=1)))
    spectrum = spectrum.mean(axis=0)
    strongest = float(spectrum.max())
    if strongest <= 0.0:
        return 0.0
    present = np.flatnonzero(spectrum >= strongest * 10.0 ** (-_BAND_EDGE_DB / 10.0))
    return float(present[-1]) * SAMPLE_RATE_HZ / _SPECTRUM_WINDOW

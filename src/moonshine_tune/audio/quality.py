"""Estimates of how well a clip was recorded, from its samples alone. Pure functions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moonshine_tune.audio.measure import frame_levels_dbfs
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ

Samples = npt.NDArray[np.float32]

_FRAME = SAMPLE_RATE_HZ // 100
_PAUSE_DB = 30.0
# Even fast speech leaves a tenth of its frames to closures and gaps between words.
_NOISE_SHARE = 10.0
_MOST_SNR_DB = 60.0
_WINDOW = 1024
# Below full band by so much is what a codec or a line cut off, not a quiet consonant.
_BAND_DB = 50.0


@dataclass(frozen=True)
class Quality:
    """What can be told of a recording.

    Attributes:
        snr_db: speech frames against the quietest tenth of all frames, 0 to 60; an estimate.
        dc_offset: mean of the samples, full scale 1.0.
        bandwidth_hz: highest frequency that is not 50 dB below the strongest; 8000 at most.
    """

    snr_db: float
    dc_offset: float
    bandwidth_hz: float


def measure_quality(samples: Samples) -> Quality:
    """Estimate the quality of a mono clip at 16 kHz; an empty or silent one has none of anything.

    The offset is taken away before levels are measured: it would count as noise.
    """
    if not len(samples):
        return Quality(0.0, 0.0, 0.0)
    offset = float(np.mean(samples, dtype=np.float64))
    centred = samples - np.float32(offset)
    levels = frame_levels_dbfs(centred, _FRAME)
    power = 10.0 ** (levels / 10.0)
    floor = float(np.percentile(power, _NOISE_SHARE))
    speech = float(power[levels >= levels.max() - _PAUSE_DB].mean())
    snr = 10.0 * np.log10(max(speech, 1e-12) / max(floor, 1e-12))
    return Quality(
        snr_db=round(float(np.clip(snr, 0.0, _MOST_SNR_DB)), 2),
        dc_offset=round(offset, 5),
        bandwidth_hz=_bandwidth(centred),
    )


def _bandwidth(samples: Samples) -> float:
    """By the mean spectrum of half overlapping windows."""
    if len(samples) < _WINDOW:
        return SAMPLE_RATE_HZ / 2
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[:: _WINDOW // 2]
    spectrum = np.square(np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), axis=1))).mean(axis=0)
    strongest = float(spectrum.max())
    if strongest <= 0.0:
        return 0.0
    heard = np.flatnonzero(spectrum >= strongest * 10.0 ** (-_BAND_DB / 10.0))
    return float(heard[-1]) * SAMPLE_RATE_HZ / _WINDOW

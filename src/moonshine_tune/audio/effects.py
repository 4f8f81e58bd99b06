"""What happens to speech on its way to a recording: pure functions on mono 16 kHz arrays.

Each takes and returns float32 [n]; n stays the same.
"""

import numpy as np
import soxr

from moonshine_tune.audio.measure import (
    FRAME_S,
    LOWEST_DBFS,
    PAUSE_BELOW_LOUDEST_DB,
    frame_levels_dbfs,
)
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples

_TELEPHONE_HZ = (300.0, 3400.0)
_TELEPHONE_RATE_HZ = 8_000
_MU = 255.0
_FADE_S = 0.005


def speech_power(samples: Samples) -> float:
    """Mean square of the frames that are not pauses; 0 for a silent clip.

    With pauses included, the same voice would count as quieter in a longer clip, and one SNR
    would mean several noise levels.
    """
    if not len(samples):
        return 0.0
    levels = frame_levels_dbfs(samples, round(FRAME_S * SAMPLE_RATE_HZ))
    if levels.max() <= LOWEST_DBFS + 1.0:
        return 0.0
    speech = levels[levels >= levels.max() - PAUSE_BELOW_LOUDEST_DB]
    return float((10.0 ** (speech / 10.0)).mean())


def add_noise(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """`samples` with `noise` (of the same length) `snr_db` below the speech.

    A silent clip or a silent noise leaves the clip as it is: no ratio is defined.
    """
    signal = speech_power(samples)
    noise_power = float(np.mean(np.square(noise, dtype=np.float64))) if len(noise) else 0.0
    if signal <= 0.0 or noise_power <= 0.0:
        return samples
    scale = np.sqrt(signal / noise_power * 10.0 ** (-snr_db / 10.0))
    return _within_full_scale(samples + np.float32(scale) * noise)


def loop_noise(noise: Samples, count: int, start: int) -> Samples:
    """`count` samples of a noise from index `start` on; the noise repeats where it is shorter."""
    return np.take(noise, np.arange(start, start + count) % len(noise)).astype(np.float32)


def add_reverberation(samples: Samples, impulse_response: Samples) -> Samples:
    """The clip convolved with an impulse response, at the level of speech it had before.

    The direct path of the response is moved to time 0, so the timing of words stays the same.
    """
    direct = int(np.abs(impulse_response).argmax())
    tail = impulse_response[direct:]
    size = 1 << (len(samples) + len(tail) - 2).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)[: len(samples)]
    before, after = speech_power(samples), speech_power(wet.astype(np.float32))
    scale = np.sqrt(before / after) if after > 0.0 else 1.0
    return _within_full_scale((wet * scale).astype(np.float32))


def change_gain(samples: Samples, gain_db: float) -> Samples:
    """The clip louder or quieter."""
    return samples * np.float32(10.0 ** (gain_db / 20.0))


def apply_telephone(samples: Samples) -> Samples:
    """300 to 3400 Hz at 8 kHz in 8-bit mu-law, as on a telephone line."""
    narrow = soxr.resample(samples, SAMPLE_RATE_HZ, _TELEPHONE_RATE_HZ, quality="HQ")
    spectrum = np.fft.rfft(narrow)
    frequencies = np.fft.rfftfreq(len(narrow), 1.0 / _TELEPHONE_RATE_HZ)
    low, high = _TELEPHONE_HZ
    # Slopes of 100 Hz: a rectangle would ring.
    slope = np.clip((frequencies - low) / 100.0 + 1.0, 0.0, 1.0)
    slope *= np.clip((high - frequencies) / 100.0 + 1.0, 0.0, 1.0)
    narrow = np.clip(np.fft.irfft(spectrum * slope, len(narrow)), -1.0, 1.0)
    coded = np.sign(narrow) * np.log1p(_MU * np.abs(narrow)) / np.log1p(_MU)
    coded = np.round(coded * 127.0) / 127.0
    decoded = np.sign(coded) * (np.expm1(np.abs(coded) * np.log1p(_MU))) / _MU
    wide = soxr.resample(
        decoded.astype(np.float32), _TELEPHONE_RATE_HZ, SAMPLE_RATE_HZ, quality="HQ"
    )
    fitted = np.zeros(len(samples), dtype=np.float32)
    count = min(len(wide), len(samples))
    fitted[:count] = wide[:count]
    return fitted


def clip_peaks(samples: Samples, share: float) -> Samples:
    """The loudest `share` of the samples (0 to 1) cut off, as by a gain that is too high."""
    if not len(samples):
        return samples
    ceiling = float(np.quantile(np.abs(samples), 1.0 - share))
    return np.clip(samples, -ceiling, ceiling) if ceiling > 0.0 else samples


def mask_spans(samples: Samples, spans: list[tuple[float, float]]) -> Samples:
    """The clip with short drop-outs.

    Args:
        spans: start and length of each, seconds; both ends are faded to avoid clicks.
    """
    gain = np.ones(len(samples), dtype=np.float32)
    fade = max(round(_FADE_S * SAMPLE_RATE_HZ), 1)
    for start_s, length_s in spans:
        start, count = round(start_s * SAMPLE_RATE_HZ), round(length_s * SAMPLE_RATE_HZ)
        shape = np.minimum(np.arange(count), np.arange(count)[::-1]) / fade
        span = slice(start, start + count)
        gain[span] *= 1.0 - np.minimum(shape, 1.0)[: len(gain[span])].astype(np.float32)
    return samples * gain


def _within_full_scale(samples: Samples) -> Samples:
    """The clip made quieter where its peaks exceed full scale."""
    peak = float(np.abs(samples).max()) if len(samples) else 0.0
    return samples if peak <= 1.0 else (samples / np.float32(peak)).astype(np.float32)

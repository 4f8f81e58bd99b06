"""What can happen to a clip on its way to a microphone: pure functions on mono 16 kHz arrays.

Each takes float32 [n] and gives float32; only `change_tempo` (in `audio/decode.py`) changes n.
"""

import numpy as np
import numpy.typing as npt
import soxr

from moonshine_tune.audio.measure import frame_levels_dbfs
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ

Samples = npt.NDArray[np.float32]

_FRAME = SAMPLE_RATE_HZ // 100
# Frames this far below the loudest are pauses: they say nothing of how loud the speech is.
_PAUSE_DB = 30.0
_TELEPHONE_HZ = (300.0, 3400.0)
_TELEPHONE_RATE_HZ = 8_000
_MU = 255.0
_FADE_S = 0.005


def speech_power(samples: Samples) -> float:
    """Mean square of the frames that are not pauses; 0 for a silent clip.

    Over the whole clip, pauses would make the same voice count as quieter in a longer clip, and
    one SNR would be several loudnesses of noise.
    """
    if not len(samples):
        return 0.0
    levels = frame_levels_dbfs(samples, _FRAME)
    heard = levels >= levels.max() - _PAUSE_DB
    powers = 10.0 ** (levels[heard] / 10.0)
    return float(powers.mean()) if levels.max() > -119.0 else 0.0


def add_noise(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """`samples` with `noise` (of the same length) `snr_db` below the speech.

    A clip or a noise without any sound stays as it is: no ratio is defined.
    """
    signal = speech_power(samples)
    loudness = float(np.mean(np.square(noise, dtype=np.float64))) if len(noise) else 0.0
    if signal <= 0.0 or loudness <= 0.0:
        return samples
    scale = np.sqrt(signal / loudness * 10.0 ** (-snr_db / 10.0))
    return within_full_scale(samples + np.float32(scale) * noise)


def piece_of(noise: Samples, count: int, start: int) -> Samples:
    """`count` samples of a noise from `start` on, as often around as it takes."""
    return np.take(noise, np.arange(start, start + count) % len(noise)).astype(np.float32)


def in_room(samples: Samples, response: Samples) -> Samples:
    """The clip heard through a room, as long and as loud as before.

    The response's direct path is put at time 0, so that words stay where they were.
    """
    direct = int(np.abs(response).argmax())
    tail = response[direct:]
    size = len(samples) + len(tail) - 1
    fast = 1 << (size - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, fast) * np.fft.rfft(tail, fast), fast)[: len(samples)]
    before, after = speech_power(samples), speech_power(wet.astype(np.float32))
    scale = np.sqrt(before / after) if after > 0.0 else 1.0
    return within_full_scale((wet * scale).astype(np.float32))


def changed_gain(samples: Samples, gain_db: float) -> Samples:
    """The clip louder or quieter."""
    return samples * np.float32(10.0 ** (gain_db / 20.0))


def over_telephone(samples: Samples) -> Samples:
    """300 to 3400 Hz at 8 kHz in 8 bits by the μ-law, as a telephone line carries it."""
    narrow = soxr.resample(samples, SAMPLE_RATE_HZ, _TELEPHONE_RATE_HZ, quality="HQ")
    spectrum = np.fft.rfft(narrow)
    place = np.fft.rfftfreq(len(narrow), 1.0 / _TELEPHONE_RATE_HZ)
    low, high = _TELEPHONE_HZ
    # Slopes of 100 Hz: a rectangle would ring.
    slope = np.clip((place - low) / 100.0 + 1.0, 0.0, 1.0)
    slope *= np.clip((high - place) / 100.0 + 1.0, 0.0, 1.0)
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


def clipped(samples: Samples, share: float) -> Samples:
    """The loudest `share` of the samples (0 to 1) cut off, as by a gain set too high."""
    if not len(samples):
        return samples
    ceiling = float(np.quantile(np.abs(samples), 1.0 - share))
    return np.clip(samples, -ceiling, ceiling) if ceiling > 0.0 else samples


def masked(samples: Samples, spans: list[tuple[float, float]]) -> Samples:
    """The clip with short drop-outs.

    Args:
        spans: begin and length of each, seconds; faded at both ends, for a step would click.
    """
    gain = np.ones(len(samples), dtype=np.float32)
    fade = max(round(_FADE_S * SAMPLE_RATE_HZ), 1)
    for begin_s, length_s in spans:
        begin, count = round(begin_s * SAMPLE_RATE_HZ), round(length_s * SAMPLE_RATE_HZ)
        shape = np.minimum(np.arange(count), np.arange(count)[::-1]) / fade
        place = slice(begin, begin + count)
        gain[place] *= 1.0 - np.minimum(shape, 1.0)[: len(gain[place])].astype(np.float32)
    return samples * gain


def within_full_scale(samples: Samples) -> Samples:
    """Made quieter where its peaks lie beyond full scale."""
    peak = float(np.abs(samples).max()) if len(samples) else 0.0
    return samples if peak <= 1.0 else (samples / np.float32(peak)).astype(np.float32)

"""Measurements of clips with known answers."""

import numpy as np
import pytest

from moonshine_tune.audio.measure import (
    clipped_fraction,
    frame_levels_dbfs,
    measure_clip,
    measure_quality,
)
from moonshine_tune.audio.samples import Samples

RATE = 16_000


def tone(seconds: float, amplitude: float, hz: float = 220.0) -> Samples:
    times = np.arange(round(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * hz * times)).astype(np.float32)


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), dtype=np.float32)


def test_loudness_and_peak_of_a_tone() -> None:
    measures = measure_clip(tone(1.0, 0.5), RATE)
    assert measures.seconds == 1.0
    assert measures.peak == pytest.approx(0.5, abs=0.001)
    # A sine's power is half of its amplitude's square.
    assert measures.rms_dbfs == pytest.approx(20 * np.log10(0.5) - 3.01, abs=0.02)
    assert not measures.is_silent
    assert measures.clipped_fraction == 0.0


def test_silence_at_both_ends() -> None:
    clip = np.concatenate([silence(0.5), tone(1.0, 0.3), silence(0.2)])
    measures = measure_clip(clip, RATE)
    assert measures.leading_silence_s == pytest.approx(0.5, abs=0.01)
    assert measures.trailing_silence_s == pytest.approx(0.2, abs=0.01)
    assert measures.active_s == pytest.approx(1.0, abs=0.02)


def test_a_pause_in_the_middle_is_not_silence_at_an_end() -> None:
    clip = np.concatenate([tone(0.3, 0.3), silence(1.0), tone(0.3, 0.3)])
    measures = measure_clip(clip, RATE)
    assert measures.leading_silence_s == measures.trailing_silence_s == 0.0


def test_room_noise_far_below_the_voice_is_silence() -> None:
    noise = np.random.default_rng(0).normal(0, 0.002, round(0.4 * RATE)).astype(np.float32)
    measures = measure_clip(np.concatenate([noise, tone(1.0, 0.9)]), RATE)
    assert measures.leading_silence_s == pytest.approx(0.4, abs=0.011)


@pytest.mark.parametrize("level", [0.0, 0.0003])
def test_a_muted_microphone_is_silent(level: float) -> None:
    noise = np.random.default_rng(0).normal(0, level, RATE).astype(np.float32)
    measures = measure_clip(noise, RATE)
    assert measures.is_silent
    assert measures.leading_silence_s == 1.0
    assert measures.trailing_silence_s == 0.0
    assert measures.active_s == 0.0


def test_one_word_in_a_long_quiet_clip_is_not_silent() -> None:
    clip = np.concatenate([silence(20), tone(0.2, 0.05), silence(20)])
    assert not measure_clip(clip, RATE).is_silent


def test_clipping_counts_flat_tops() -> None:
    loud = np.clip(tone(1.0, 2.0), -1.0, 1.0)
    # A sine of twice full scale lies beyond it for two thirds of the time.
    assert clipped_fraction(loud) == pytest.approx(2 / 3, abs=0.01)
    assert measure_clip(loud, RATE).clipped_fraction == clipped_fraction(loud)


def test_single_samples_at_full_scale_are_not_clipping() -> None:
    clip = tone(1.0, 0.5)
    clip[::100] = 1.0
    assert clipped_fraction(clip) == 0.0


def test_float_samples_beyond_full_scale_count() -> None:
    assert clipped_fraction(np.array([0.1, 1.5, -1.5, 0.1], dtype=np.float32)) == 0.5


@pytest.mark.parametrize("length", [0, 1, 159, 161])
def test_clips_of_less_than_a_frame(length: int) -> None:
    measures = measure_clip(np.full(length, 0.5, dtype=np.float32), RATE)
    assert measures.seconds == pytest.approx(length / RATE)
    assert measures.trailing_silence_s == 0.0
    assert measures.is_silent == (length == 0)


def test_the_last_frame_may_be_shorter() -> None:
    levels = frame_levels_dbfs(np.full(250, 0.1, dtype=np.float32), 100)
    assert levels == pytest.approx([-20.0, -20.0, -20.0], abs=1e-5)


def test_measuring_does_not_change_the_samples() -> None:
    clip = tone(0.5, 0.5)
    before = clip.copy()
    measure_clip(clip, RATE)
    measure_quality(clip)
    assert np.array_equal(clip, before)


def test_quality_of_tones_in_noise() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 2 * RATE).astype(np.float32)
    clip = np.concatenate([silence(1.0), tone(1.0, 0.5, 3000.0)]) + noise + np.float32(0.05)
    quality = measure_quality(clip)
    assert quality.dc_offset == pytest.approx(0.05, abs=0.001)
    # A power of 0.5 ** 2 / 2 above one of 0.01 ** 2, less what the quietest tenth varies.
    assert quality.snr_db == pytest.approx(31.0, abs=1.5)
    assert measure_quality(noise).bandwidth_hz == pytest.approx(8000, abs=100)
    assert measure_quality(tone(1.0, 0.5, 3000.0)).bandwidth_hz == pytest.approx(3000, abs=100)
    assert measure_quality(silence(0.0)) == type(quality)(0.0, 0.0, 0.0)

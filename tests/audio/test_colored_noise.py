"""Computed noises: white to brown, the same in every run."""

import numpy as np
import pytest

from moonshine_tune.audio.noise_bank import COLORED_NOISES, ColoredNoise
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_power_falls_with_frequency(exponent: float) -> None:
    samples = ColoredNoise(exponent).load()
    power = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)

    def band(low: float) -> float:
        return float(power[(hz >= low) & (hz < 1.2 * low)].mean())

    octaves = np.log2(band(3200.0) / band(200.0)) / 4
    assert octaves == pytest.approx(-exponent, abs=0.15)


def test_noises_are_audible_finite_and_the_same_again() -> None:
    for noise in COLORED_NOISES.sounds:
        samples = noise.load()
        assert samples.dtype == np.float32
        assert np.isfinite(samples).all()
        assert np.sqrt(np.mean(samples**2)) == pytest.approx(0.1, rel=1e-3)
        assert np.array_equal(samples, noise.load())
    assert len({noise.sha256 for noise in COLORED_NOISES.sounds}) == len(COLORED_NOISES.sounds)

"""Cutting recordings at pauses."""

from itertools import pairwise

import numpy as np
import pytest

from moonshine_tune.audio.samples import Samples
from moonshine_tune.audio.segment import find_pauses, split_at_pauses
from moonshine_tune.core.errors import AudioError
from moonshine_tune.demo.data import TWO_CITIES_SPANS

RATE = 16_000


def recording(*parts: tuple[str, float], noise: float = 0.001, rate: int = RATE) -> Samples:
    """Bursts of "speech" (noise with a syllable's rise and fall) and pauses, lengths in s."""
    rng = np.random.default_rng(0)
    pieces = []
    for kind, seconds in parts:
        time = np.arange(round(seconds * rate)) / rate
        loud = 0.2 * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time)) if kind == "speech" else 0.0
        pieces.append((loud + noise) * rng.standard_normal(len(time)))
    return np.concatenate(pieces).astype(np.float32)


def check_cover(spans: tuple[tuple[float, float], ...], total_s: float) -> None:
    assert spans[0][0] == 0.0
    assert spans[-1][1] == pytest.approx(total_s)
    assert all(left[1] == right[0] for left, right in pairwise(spans))


@pytest.mark.parametrize("noise", [0.0, 0.0005, 0.02])
@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_pauses_are_found_at_any_level_and_noise(noise: float, gain: float) -> None:
    samples = recording(
        ("speech", 2.0), ("pause", 0.4), ("speech", 3.0), ("pause", 0.6), ("speech", 1.0),
        noise=noise,
    )  # fmt: skip
    pauses = find_pauses(samples * np.float32(gain))
    assert [pause.middle_s for pause in pauses] == pytest.approx([2.2, 5.7], abs=0.03)
    assert [pause.length_s for pause in pauses] == pytest.approx([0.4, 0.6], abs=0.05)


def test_short_gaps_are_not_pauses() -> None:
    samples = recording(
        ("speech", 2.0), ("pause", 0.08), ("speech", 2.0), ("pause", 0.5), ("speech", 1.0)
    )
    assert [pause.middle_s for pause in find_pauses(samples)] == pytest.approx([4.33], abs=0.03)
    assert len(find_pauses(samples, min_pause_s=0.05)) == 2


@pytest.mark.parametrize("samples", [np.zeros(RATE, np.float32), np.zeros(0, np.float32)])
def test_silence_has_no_pauses(samples: Samples) -> None:
    assert find_pauses(samples) == ()


def test_constant_noise_has_no_pauses_and_is_still_cut() -> None:
    samples = recording(("pause", 25.0), noise=0.1)
    assert find_pauses(samples) == ()
    spans = split_at_pauses(samples, max_s=10.0)
    check_cover(spans, 25.0)
    assert all(1.0 <= end - start <= 10.0 for start, end in spans)


def test_cuts_are_in_the_longest_pauses() -> None:
    samples = recording(
        ("speech", 4.0), ("pause", 0.3), ("speech", 2.0), ("pause", 0.8), ("speech", 2.0),
        ("pause", 0.3), ("speech", 4.0), ("pause", 0.5), ("speech", 3.0),
    )  # fmt: skip
    spans = split_at_pauses(samples, max_s=10.0)
    check_cover(spans, len(samples) / RATE)
    assert [end for _, end in spans[:-1]] == pytest.approx([6.7, 13.65], abs=0.03)


def test_a_pause_in_the_first_half_is_used_if_there_is_no_later_one() -> None:
    samples = recording(("speech", 3.0), ("pause", 0.4), ("speech", 9.0))
    spans = split_at_pauses(samples, max_s=10.0)
    assert spans[0][1] == pytest.approx(3.2, abs=0.03)


def test_without_a_pause_the_cut_is_at_the_lowest_energy() -> None:
    samples = recording(("speech", 14.0))
    samples[round(7.4 * RATE) : round(7.5 * RATE)] *= 0.2
    (first, second) = split_at_pauses(samples, max_s=10.0)
    assert first[1] == second[0] == pytest.approx(7.45, abs=0.05)


@pytest.mark.parametrize("seed", range(6))
def test_pieces_keep_their_bounds_and_cover_everything(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(12):
        parts += [("speech", float(rng.uniform(0.3, 9.0)))]
        parts += [("pause", float(rng.uniform(0.05, 1.0)))]
    rate = (8_000, 11_025, 16_000)[seed % 3]
    samples = recording(*parts, rate=rate)
    spans = split_at_pauses(samples, rate, max_s=6.0, min_s=1.5)
    check_cover(spans, len(samples) / rate)
    lengths = [end - start for start, end in spans]
    assert max(lengths) <= 6.0 + 1e-6
    assert min(lengths) >= 1.5 - 1e-6


def test_short_and_empty_recordings_are_not_cut() -> None:
    assert split_at_pauses(np.zeros(0, np.float32)) == ()
    samples = recording(("speech", 0.5))
    assert split_at_pauses(samples) == ((0.0, 0.5),)


@pytest.mark.parametrize(
    ("samples", "rate", "options"),
    [
        (np.zeros((2, 100), np.float32), RATE, {}),
        (np.full(100, np.nan, np.float32), RATE, {}),
        (np.zeros(100, np.float32), 0, {}),
        (np.zeros(100, np.float32), RATE, {"max_s": 2.0, "min_s": 1.5}),
        (np.zeros(100, np.float32), RATE, {"min_s": 0.0}),
    ],
)
def test_impossible_input_is_refused(
    samples: Samples, rate: int, options: dict[str, float]
) -> None:
    with pytest.raises(AudioError):
        split_at_pauses(samples, rate, **options)


def test_the_spans_of_the_canary_are_contiguous() -> None:
    check_cover(tuple((start, end) for start, end, _ in TWO_CITIES_SPANS), 42.26)
    assert all(1.0 < end - start <= 10.0 for start, end, _ in TWO_CITIES_SPANS)
    words = " ".join(text for _, _, text in TWO_CITIES_SPANS).replace("—", " ").split()
    assert len(words) == 119
    assert (words[0], words[-1]) == ("It", "only.")

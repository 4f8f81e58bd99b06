"""Conditions that need no recordings of noise: what they do to a clip."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.evaluation.noise_conditions import synthetic_change


def test_conditions_keep_the_length_of_a_clip_and_its_ratio_to_the_noise(
    make_clip: Callable[..., Any],
) -> None:
    clip, utterance = make_clip(1.0, 3), Utterance("u", Path("u.wav"))
    for name in ("quiet", "noise-20dB", "noise-10dB", "telephone"):
        changed = synthetic_change(name)(utterance, clip)
        assert changed.shape == clip.shape
        assert changed.dtype == np.float32
        assert not np.allclose(changed, clip, atol=1e-3)
        assert np.array_equal(changed, synthetic_change(name)(utterance, clip))
    noisy = synthetic_change("noise-10dB")(utterance, clip)
    scale = np.dot(noisy, clip) / np.dot(clip, clip)
    rest = noisy - scale * clip
    decibels = 10 * np.log10(np.sum((scale * clip) ** 2) / np.sum(rest**2))
    assert decibels == pytest.approx(10, abs=0.5)
    assert len(synthetic_change("fast")(utterance, clip)) < len(clip)


def test_an_unknown_condition_is_an_error() -> None:
    with pytest.raises(RequestError, match="no condition is called 'loud'"):
        synthetic_change("loud")

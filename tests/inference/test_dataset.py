"""A dataset trusts the lengths of its manifest until it reads the sound."""

from pathlib import Path

import numpy as np
import pytest

from moonshine_tune.audio.io import write_audio
from moonshine_tune.core.errors import AudioError
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.inference.dataset import SpeechDataset


@pytest.mark.parametrize(
    ("stated", "is_right"),
    [(3.0, True), (2.96, True), (3.0 + 0.49, True), (0.5, False), (3000.0, False), (6.0, False)],
)
def test_a_length_that_is_not_that_of_the_sound_is_named(
    tmp_path: Path, stated: float, is_right: bool
) -> None:
    write_audio(tmp_path / "a.wav", np.zeros(48_000, np.float32) + 0.01)
    utterance = Utterance("u7", tmp_path / "a.wav", "one two", duration=stated)
    dataset = SpeechDataset((utterance,), (stated,), ((3, 4),), ())
    if is_right:
        assert len(dataset.load(0)) == 48_000
        return
    with pytest.raises(AudioError, match=rf"u7: the manifest says {stated:.2f} s, .* 3\.00 s"):
        dataset.load(0)

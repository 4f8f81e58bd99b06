"""Spans of a recording that is read in blocks."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from moonshine_tune.audio.blocks import BlockReader
from moonshine_tune.audio.io import load_audio
from moonshine_tune.core.errors import AudioError
from moonshine_tune.core.progress import SilentProgress


def test_blocks_of_another_rate_join_without_a_seam(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    time = np.arange(round(65.5 * 44_100)) / 44_100
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 440 * time), 44_100)
    reader = BlockReader.of_file(path)
    blocks = reader.read(0.0, 65.5)
    complete = load_audio(path)
    assert abs(len(blocks) - len(complete)) <= 1
    shared = slice(0, len(complete) - 800)
    assert np.abs(blocks[shared] - complete[shared]).max() < 1e-3
    levels = reader.levels(SilentProgress())
    assert len(levels) == 6550
    assert levels[:-1] == pytest.approx(np.full(6549, 10 * np.log10(0.045)), abs=0.2)


def test_a_span_of_a_file_has_times_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "steps.wav"
    soundfile.write(path, np.repeat([0.1, 0.2, 0.3, 0.4], 16_000), 16_000)
    reader = BlockReader.of_file(path, start_s=1.0, end_s=3.0)
    assert reader.seconds == 2.0
    assert np.unique(reader.read(0.0, 5.0).round(2)) == pytest.approx([0.2, 0.3])
    with pytest.raises(AudioError, match="no samples"):
        BlockReader.of_file(path, start_s=3.0, end_s=3.0)

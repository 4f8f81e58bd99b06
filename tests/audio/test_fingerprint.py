"""Recordings are known by their content, whatever they are called and whatever a clock says."""

import os
import shutil
from pathlib import Path

import numpy as np

from moonshine_tune.audio.fingerprint import (
    FileMark,
    content_hash,
    content_key,
    known_fingerprints,
    recording_fingerprint,
)
from moonshine_tune.audio.io import write_audio
from moonshine_tune.corpus.manifest import Utterance


def _record(path: Path, hertz: float) -> Path:
    tone = 0.1 * np.sin(np.arange(1600) * hertz / 2546)
    write_audio(path, tone.astype(np.float32))
    return path


def test_a_copy_is_the_same_and_another_sound_is_not(tmp_path: Path) -> None:
    path = _record(tmp_path / "a.wav", 200)
    copy = shutil.copy(path, tmp_path / "b.wav")
    other = _record(tmp_path / "c.wav", 210)
    clips = [Utterance(Path(name).stem, Path(name)) for name in (path, copy, other)]
    known = known_fingerprints([*clips, Utterance("gone", tmp_path / "gone.wav")])
    assert known["a"] == known["b"] != known["c"]
    assert "gone" not in known


def test_other_sound_under_the_old_time_and_length_is_read_again(tmp_path: Path) -> None:
    path = _record(tmp_path / "a.wav", 200)
    before, mark, stat = content_hash(path), FileMark.of(path), path.stat()
    _record(path, 210)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert FileMark.of(path) != mark
    assert content_hash(path) != before


def test_spans_late_in_a_long_recording_are_told_apart(tmp_path: Path) -> None:
    path = _record(tmp_path / "a.wav", 200)
    spans = [Utterance("u", path, start=start, end=12350.0) for start in (12345.61, 12345.64)]
    assert len({content_key(span) for span in spans}) == 2
    assert len({recording_fingerprint(span) for span in spans}) == 2
    # Short times are written as they always were: results in the cache stay.
    assert content_key(Utterance("u", path, start=12.5, end=20.0)).endswith(":12.5:20.0")
    assert content_key(Utterance("u", path)).endswith(":0:None")

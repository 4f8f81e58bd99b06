"""Copies of a recording in lossy forms, against other takes."""

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr

from moonshine_tune.audio.io import load_audio
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.audio.similarity import copies_among, sketch_of
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Utterance, write_manifest
from moonshine_tune.data.checks.check import check_data


def _voice(seed: int, seconds: float = 1.6) -> Samples:
    """Syllables with a wandering pitch and some breath; every seed is another take."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    bends = rng.normal(0, 8, 20)
    pitch = 130 + np.interp(time, np.linspace(0, seconds, 20), bends)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE_HZ
    voiced = sum(np.sin(k * phase) / k for k in range(1, 12))
    syllables = np.square(np.sin(2 * np.pi * 1.7 * time + rng.uniform(0, 0.4)))
    noise = rng.normal(0, 0.02, len(time))
    return (0.2 * voiced * syllables + noise).astype(np.float32)


def _through(samples: Samples, container: str, codec: str, rate: int) -> Samples:
    """The samples after a codec at its lowest quality, at another rate."""
    file = io.BytesIO()
    resampled = soxr.resample(samples, SAMPLE_RATE_HZ, rate)
    sf.write(file, resampled, rate, format=container, subtype=codec)
    file.seek(0)
    decoded, rate = sf.read(file, dtype="float32")
    return np.asarray(soxr.resample(decoded, rate, SAMPLE_RATE_HZ), dtype=np.float32)


FORMS = {
    "mp3": lambda x: _through(x, "MP3", "MPEG_LAYER_III", 44_100),
    "vorbis": lambda x: _through(x, "OGG", "VORBIS", 22_050),
    "telephone": lambda x: _through(x, "WAV", "GSM610", 8_000),
    "louder": lambda x: np.clip(2.5 * x, -1, 1),
    "trimmed": lambda x: x[1_200:-1_200],
    "inverted": lambda x: -0.3 * x,
    "padded": lambda x: np.pad(x, (3_000, 1_000)),
    "noisy": lambda x: x + np.random.default_rng(9).normal(0, 0.03, len(x)).astype(np.float32),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_copy_is_found_in_every_form(form: str) -> None:
    voices = [_voice(seed) for seed in range(4)]
    sketches = [sketch_of(item) for item in [*voices, FORMS[form](voices[2])]]
    owners = ["train"] * 4 + ["dev"]
    assert [set(pair) for pair in copies_among(sketches, owners)] == [{2, 4}]
    assert not list(copies_among(sketches, ["train"] * 5))


def test_a_hum_and_silence_are_no_copies() -> None:
    """The hum of one device is in all of its recordings, here 12 dB above the voice."""
    time = np.arange(round(1.6 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    hum = sum(np.sin(2 * np.pi * 50 * k * time) / k for k in range(1, 6)).astype(np.float32)
    sketches = [sketch_of(_voice(seed) + 0.5 * hum) for seed in range(6)]
    sketches += [sketch_of(np.zeros(16_000, np.float32)), sketch_of(np.zeros(0, np.float32))]
    assert not list(copies_among(sketches, range(len(sketches))))


def test_blocks_find_what_one_comparison_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moonshine_tune.audio.similarity._BLOCK", 3)
    voices = [_voice(seed, 1.0 + 0.1 * seed) for seed in range(8)]
    sketches = [sketch_of(item) for item in (*voices, *(0.5 * item[:-800] for item in voices))]
    pairs = {frozenset(pair) for pair in copies_among(sketches, [0] * 8 + [1] * 8)}
    assert pairs == {frozenset((i, i + 8)) for i in range(8)}


@pytest.mark.shared_data
def test_takes_of_one_letter_by_one_person_are_no_copies(shared_data: Path) -> None:
    files = sorted((shared_data / "alphanumeric" / "audio").glob("[bept]/*.flac"))
    sketches = [sketch_of(load_audio(path)) for path in files]
    assert len(list(combinations(sketches, 2))) > 50
    assert not list(copies_among(sketches, range(len(sketches))))


def test_check_names_a_lossy_copy_in_another_split(tmp_path: Path) -> None:
    """Of the same text: takes by several people, and one MP3 of a training clip."""
    for name, samples in (
        ("train-1.wav", _voice(1)),
        ("train-2.wav", _voice(2)),
        ("dev-1.mp3", _voice(2)[800:]),
        ("dev-2.wav", _voice(3)),
    ):
        sf.write(tmp_path / name, samples, SAMPLE_RATE_HZ)
    clips = [
        Utterance(path.stem, path, "turn left now please", speaker=path.stem)
        for path in sorted(tmp_path.iterdir())
    ]
    paths = [tmp_path / f"{name}.jsonl" for name in ("train", "dev")]
    for path in paths:
        write_manifest(path, [item for item in clips if item.id.startswith(path.stem)])
    found = {item.kind: item for item in check_data(paths, SilentProgress()).findings}
    assert set(found["leaked_recordings"].ids) == {"train:train-2", "dev:dev-1"}

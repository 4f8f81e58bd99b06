"""Channels that cancel or are dead, and integers stored as floats, are read right and reported."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from moonshine_tune.audio.io import audio_info, load_audio
from moonshine_tune.audio.remarks import READING_REMARKS
from moonshine_tune.core.errors import AudioError

RATE = 16_000
RNG = np.random.default_rng(5)


def voice(seconds: float = 4.0) -> np.ndarray:
    """Harmonics of 140 Hz in syllables: its samples resemble their neighbors, as speech does."""
    time = np.arange(round(RATE * seconds)) / RATE
    tones = sum(np.sin(2 * np.pi * 140 * k * time + k) / k for k in range(1, 12))
    return 0.15 * tones * (np.sin(2 * np.pi * 2.5 * time) > -0.6)


VOICE = voice()


def level(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples)) + 1e-12))


def noise(level_dbfs: float) -> np.ndarray:
    return RNG.normal(0, 10 ** (level_dbfs / 20), len(VOICE))


SPOILED = {
    "opposite": [VOICE, -VOICE],
    "almost opposite": [VOICE, -0.9 * VOICE + noise(-70)],
    "late by a sample": [VOICE, -np.roll(VOICE, 1)],
    "late by three samples": [VOICE, -np.roll(VOICE, 3)],
    "opposite in noise": [VOICE + noise(-45), -VOICE + noise(-45)],
    "right is dead": [VOICE, 0 * VOICE],
    "left is only noise": [noise(-75), VOICE],
    "three of four are dead": [0 * VOICE, 0 * VOICE, VOICE, 0 * VOICE],
    "opposite and a dead one": [VOICE, -VOICE, 0 * VOICE],
}
SOUND = {
    "same": [VOICE, VOICE],
    "two persons": [VOICE, np.roll(voice()[::-1], 777) * 0.8],
    "microphones in a room": [VOICE, 0.7 * np.roll(VOICE, 3) + noise(-50)],
    "quiet second microphone": [VOICE, 0.05 * VOICE],
    "silence": [0 * VOICE, 0 * VOICE],
}


@pytest.mark.parametrize(
    ("case", "ending"),
    [(case, ending) for case in SPOILED for ending in ("wav", "flac")] + [("opposite", "mp3")],
)
def test_channels_that_spoil_the_mean_are_left_out(tmp_path: Path, case: str, ending: str) -> None:
    path = tmp_path / f"spoiled.{ending}"
    sf.write(path, np.stack(SPOILED[case], axis=1), RATE)
    assert level(load_audio(path)) == pytest.approx(level(VOICE), abs=1.0)
    assert level(load_audio(path, start=1.0, end=3.0)) == pytest.approx(level(VOICE), abs=1.5)
    assert [remark.kind for remark in audio_info(path, examine=True).remarks] == ["channels"]


@pytest.mark.parametrize("case", SOUND)
def test_other_channels_are_averaged(tmp_path: Path, case: str) -> None:
    path = tmp_path / "sound.wav"
    channels = np.stack(SOUND[case], axis=1)
    sf.write(path, channels, RATE, subtype="PCM_24")
    assert np.abs(load_audio(path) - channels.mean(axis=1)).max() < 1e-5
    assert audio_info(path, examine=True).remarks == ()


def test_a_voice_between_the_places_that_are_looked_at_is_found(tmp_path: Path) -> None:
    path = tmp_path / "sparse.wav"
    samples = np.concatenate([np.zeros(RATE * 31), VOICE, np.zeros(RATE * 89)])
    sf.write(path, np.stack([samples, -samples], axis=1), RATE)
    assert level(load_audio(path, start=31.0, end=35.0)) == pytest.approx(level(VOICE), abs=0.1)


def test_a_channel_that_is_asked_for_is_read_whatever_the_others_hold(tmp_path: Path) -> None:
    path = tmp_path / "opposite.wav"
    sf.write(path, np.stack([VOICE, -VOICE], axis=1), RATE)
    READING_REMARKS.take()
    assert np.abs(load_audio(path, channel=2) + VOICE).max() < 1e-4
    assert READING_REMARKS.take() == []
    load_audio(path)
    (line,) = READING_REMARKS.take()
    assert line.startswith("opposite.wav: channels cancel") and "--channel" in line
    load_audio(path)
    assert READING_REMARKS.take() == []


INTEGERS = np.round(VOICE * 32_767)
FLOATS = {
    "16 bits": INTEGERS,
    "16 bits, resampled": INTEGERS * 0.7071,
    "16 bits, quiet": np.round(VOICE * 600),
    "16 bits, two channels": np.stack([INTEGERS, INTEGERS], axis=1),
    "24 bits": np.round(VOICE * 2**23),
    "32 bits": np.round(VOICE * 2**31),
    "unsigned 8 bits": np.round(VOICE * 127) + 128,
    "divided twice": INTEGERS / 32_768 / 32_768,
}


@pytest.mark.parametrize("case", FLOATS)
@pytest.mark.parametrize(
    ("ending", "subtype"), [("wav", "FLOAT"), ("wav", "DOUBLE"), ("au", "FLOAT")]
)
def test_integers_stored_as_floats_are_brought_to_full_scale(
    tmp_path: Path, case: str, ending: str, subtype: str
) -> None:
    path = tmp_path / f"scaled.{ending}"
    sf.write(path, FLOATS[case], RATE, subtype=subtype)
    (remark,) = audio_info(path, examine=True).remarks
    assert remark.kind == "scale"
    gain = {"16 bits, resampled": 0.7071, "16 bits, quiet": 600 / 32_768}.get(case, 1.0)
    assert np.abs(load_audio(path) - VOICE * gain).max() < 0.01
    span = load_audio(path, start=1.0, end=1.5)
    assert np.abs(span - VOICE[RATE : RATE + RATE // 2] * gain).max() < 0.01


def test_every_span_has_the_scale_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    quiet = np.round(RNG.normal(0, 1, RATE * 60))
    sf.write(path, np.concatenate([quiet, INTEGERS]), RATE, subtype="FLOAT")
    assert np.abs(load_audio(path, start=0.0, end=2.0)).max() < 1e-3
    assert np.abs(load_audio(path, start=60.0) - VOICE).max() < 1e-3


@pytest.mark.parametrize("gain", [1.0, 6.0, 0.001])
def test_floats_of_any_usual_gain_stay_as_they_are(tmp_path: Path, gain: float) -> None:
    path = tmp_path / "floats.wav"
    sf.write(path, VOICE * gain, RATE, subtype="FLOAT")
    assert np.abs(load_audio(path) - VOICE * gain).max() < 1e-6
    assert audio_info(path, examine=True).remarks == ()


@pytest.mark.parametrize(
    ("samples", "reading"),
    [(VOICE * 120, "too high"), (np.round(VOICE * 100), "either 8-bit numbers, or 16-bit")],
)
def test_floats_of_an_uncertain_scale_are_refused_with_both_readings(
    tmp_path: Path, samples: np.ndarray, reading: str
) -> None:
    path = tmp_path / "un certain.wav"
    sf.write(path, samples, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=reading) as caught:
        load_audio(path)
    assert caught.value.where == str(path)
    assert f"ffmpeg -i '{path}'" in (caught.value.hint or "")


def test_samples_that_are_no_numbers_are_still_named(tmp_path: Path) -> None:
    path = tmp_path / "infinite.wav"
    samples = np.stack([VOICE, -VOICE], axis=1)
    samples[5, 1] = np.inf
    sf.write(path, samples, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="not numbers"):
        load_audio(path)

"""Decoding: every file gives the same audio, or one plain error with its path and reason."""

import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from moonshine_tune.audio.io import (
    DecoderMissingError,
    audio_info,
    load_audio,
    load_utterance,
    write_audio,
)
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.errors import AudioError
from moonshine_tune.corpus.manifest import Utterance

SECONDS = 2.0


def tone(rate: int, seconds: float = SECONDS) -> np.ndarray:
    """A rising tone: no two moments are alike."""
    time = np.arange(round(rate * seconds)) / rate
    return 0.4 * np.sin(2 * np.pi * (200 * time + 150 * time**2))


EXPECTED = tone(SAMPLE_RATE_HZ)


def near(samples: np.ndarray, expected: np.ndarray, bound: float) -> bool:
    """Same except for the ends, where resampling and codecs ring."""
    edge = 400
    return bool(np.abs(samples[edge:-edge] - expected[edge:-edge]).max() < bound)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize(
    ("ending", "subtype", "bound"),
    [
        ("wav", "PCM_16", 0.002),
        ("wav", "PCM_24", 0.002),
        ("wav", "PCM_U8", 0.02),
        ("wav", "FLOAT", 0.002),
        ("wav", "DOUBLE", 0.002),
        ("flac", "PCM_16", 0.002),
        ("ogg", "VORBIS", 0.08),
        ("mp3", "MPEG_LAYER_III", 0.08),
    ],
)
def test_every_format_and_rate_gives_the_same_audio(
    tmp_path: Path, rate: int, ending: str, subtype: str, bound: float
) -> None:
    path = tmp_path / f"clip.{ending}"
    sf.write(path, tone(rate), rate, subtype=subtype)
    samples = load_audio(path)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(len(EXPECTED), abs=2)
    assert near(samples, EXPECTED[: len(samples)], bound)
    info = audio_info(path)
    assert (info.sample_rate_hz, info.channels) == (rate, 1)
    assert info.seconds == pytest.approx(SECONDS, abs=0.01)


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left = tone(44_100)
    sf.write(path, np.stack([left, left / 4], axis=1), 44_100)
    assert near(load_audio(path), EXPECTED * 0.625, 0.002)
    assert audio_info(path).channels == 2


def test_float_samples_beyond_full_scale_are_not_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "loud.wav"
    sf.write(path, 5 * EXPECTED, 16_000, subtype="FLOAT")
    assert near(load_audio(path), 5 * EXPECTED, 1e-5)


@pytest.mark.parametrize(("ending", "rate"), [("wav", 16_000), ("flac", 44_100), ("mp3", 48_000)])
def test_a_span_is_that_part_of_the_recording(tmp_path: Path, ending: str, rate: int) -> None:
    path = tmp_path / f"clip.{ending}"
    sf.write(path, tone(rate), rate)
    recording = load_audio(path)
    span = load_audio(path, start=0.75, end=1.5)
    assert len(span) == 12_000
    assert near(span, recording[12_000:24_000], 0.005)
    assert len(load_audio(path, start=1.5)) == pytest.approx(8_000, abs=2)


def test_a_span_reads_no_more_than_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hour.flac"
    sf.write(path, np.zeros(16_000 * 600), 16_000)
    read = sf.SoundFile.read
    requested: list[int] = []

    def counting(self: Any, frames: int = -1, *rest: Any, **named: Any) -> Any:
        requested.append(frames)
        return read(self, frames, *rest, **named)

    monkeypatch.setattr(sf.SoundFile, "read", counting)
    load_audio(path, start=300.0, end=301.0)
    assert requested == [16_000]


@pytest.mark.parametrize(("start", "end"), [(2.5, None), (2.5, 3.0), (0.0, 2.5), (1.0, 9.0)])
def test_a_span_outside_of_the_recording_is_refused(
    tmp_path: Path, start: float, end: float | None
) -> None:
    path = tmp_path / "clip.wav"
    sf.write(path, EXPECTED, 16_000)
    with pytest.raises(AudioError, match=r"the recording has 2\.00 s") as caught:
        load_audio(path, start=start, end=end)
    assert str(path) in str(caught.value)


def test_an_end_rounded_up_in_the_manifest_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    sf.write(path, EXPECTED, 16_000)
    assert len(load_audio(path, end=2.1)) == len(EXPECTED)


def test_unicode_and_spaces_in_paths(tmp_path: Path) -> None:
    path = tmp_path / "ä ü 録音" / "ein Satz — 1.wav"
    path.parent.mkdir()
    sf.write(path, EXPECTED, 16_000)
    assert near(load_audio(path), EXPECTED, 0.001)


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3"])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"clip.{ending}"
    sf.write(path, np.random.default_rng(0).normal(0, 0.1, 48_000 * 3), 48_000)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(AudioError) as caught:
        load_audio(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_a_wav_of_a_stream_without_a_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "stream.wav"
    sf.write(path, EXPECTED, 16_000)
    raw = bytearray(path.read_bytes())
    offset = raw.index(b"data")
    raw[offset + 4 : offset + 8] = b"\xff\xff\xff\xff"
    path.write_bytes(raw)
    assert len(load_audio(path)) == len(EXPECTED)


def _bad_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.wav"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("This is not audio. " * 40)
    elif kind == "no-samples":
        sf.write(path, np.zeros(0), 16_000)
    elif kind == "not-finite":
        sf.write(path, np.array([0.1, np.nan, 0.2]), 16_000, subtype="FLOAT")
    elif kind == "infinite":
        sf.write(path, np.array([0.1, np.inf, 0.2]), 16_000, subtype="FLOAT")
    elif kind == "folder":
        path.mkdir()
    elif kind == "raw":
        path = path.with_suffix(".raw")
        path.write_bytes(bytes(3200))
    elif kind == "text-mp3":
        path = path.with_suffix(".mp3")
        path.write_text("This is not audio. " * 40)
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no such recording"),
        ("folder", "a folder, not a recording"),
        ("empty", "the file is empty"),
        ("text", "cannot be read as audio"),
        ("text-mp3", "cannot be read as audio"),
        ("no-samples", "no samples"),
        ("not-finite", "not numbers"),
        ("infinite", "not numbers"),
        ("raw", "does not store its sample rate"),
    ],
)
def test_bad_files_give_one_plain_error(tmp_path: Path, kind: str, reason: str) -> None:
    path = _bad_file(tmp_path, kind)
    with pytest.raises(AudioError, match=reason) as caught:
        load_audio(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint
    utterance = Utterance(id="u-17", audio=path)
    with pytest.raises(AudioError, match="u-17"):
        load_utterance(utterance)


MP4_HEAD = b"\x00\x00\x00\x20ftypM4A \x00\x00\x02\x00isomiso2" + bytes(200)


@pytest.mark.parametrize("name", ["clip.m4a", "clip.wav"])
def test_without_a_decoder_the_error_names_the_missing_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PATH", "")
    path = tmp_path / name
    path.write_bytes(MP4_HEAD)
    for read in (load_audio, audio_info):
        with pytest.raises(DecoderMissingError, match="ffmpeg") as caught:
            read(path)
        assert "brew install ffmpeg" in (caught.value.hint or "")
        assert str(path) in str(caught.value)


def _program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_decoder_on_the_path_decodes_foreign_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = tmp_path / "decoded.wav"
    sf.write(decoded, EXPECTED, 16_000, subtype="FLOAT")
    programs = tmp_path / "bin"
    programs.mkdir()
    # The last word of the command is the path that the decoder writes to.
    script = f'for last; do :; done; /bin/cp "{decoded}" "${{last#file:}}"'
    _program(programs, "ffmpeg", script)
    monkeypatch.setenv("PATH", str(programs))
    path = tmp_path / "-clip.m4a"
    path.write_bytes(MP4_HEAD)
    assert near(load_audio(path), EXPECTED, 1e-6)
    assert near(load_audio(path, start=0.5, end=1.0), EXPECTED[8000:16000], 1e-6)
    assert audio_info(path).seconds == SECONDS
    with pytest.raises(AudioError, match=r"the recording has 2\.00 s"):
        load_audio(path, start=0.0, end=3.0)


def test_the_decoder_message_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    _program(programs, "ffmpeg", "echo 'moov atom not found' >&2; exit 1")
    monkeypatch.setenv("PATH", str(programs))
    path = tmp_path / "clip.m4a"
    path.write_bytes(MP4_HEAD)
    with pytest.raises(AudioError, match="moov atom not found"):
        load_audio(path)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_a_real_m4a(tmp_path: Path) -> None:
    source, path = tmp_path / "clip.wav", tmp_path / "clip.m4a"
    sf.write(source, EXPECTED, 16_000)
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, path], check=True)
    assert near(load_audio(path)[: len(EXPECTED)], EXPECTED, 0.1)


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_what_is_written_is_read_back(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"new.{ending}"
    write_audio(path, EXPECTED.astype(np.float32))
    assert sf.info(str(path)).subtype == "PCM_16"
    assert np.abs(load_audio(path) - EXPECTED).max() < 1e-4
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_a_line_that_names_a_channel_is_not_read_as_the_mean_of_all(tmp_path: Path) -> None:
    tone = 0.1 * np.sin(np.arange(1600) / 9)
    for name, samples in (("both", np.stack([tone, tone[::-1]], axis=1)), ("one", tone)):
        sf.write(tmp_path / f"{name}.wav", samples, 16_000)
    for channel in (1, "2", 0, "left"):
        utterance = Utterance("u", tmp_path / "both.wav", extra={"channel": channel})
        with pytest.raises(AudioError, match=r"utterance u: its line has .* has 2 channels") as one:
            load_utterance(utterance)
        assert "--audio-out" in (one.value.hint or "")
        # Cut out already: the key is a field like any other.
        assert len(load_utterance(replace(utterance, audio=tmp_path / "one.wav"))) == 1600
    studio = Utterance("u", tmp_path / "both.wav", extra={"channel": "studio"})
    assert len(load_utterance(studio)) == 1600

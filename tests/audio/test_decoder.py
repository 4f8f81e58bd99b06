"""Formats that libsndfile does not read are decoded once, without a trace on disk."""

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from moonshine_tune.audio import decoder
from moonshine_tune.audio.decoder import DecodedFile, DecodedFiles, DecoderMissingError
from moonshine_tune.audio.io import audio_info, load_audio
from moonshine_tune.core.errors import AudioError

RATE = 16_000
TONE = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE * 3) / RATE)
MP4_HEAD = b"\x00\x00\x00\x20ftypM4A \x00\x00\x02\x00isomiso2"
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def converted(path: Path, *options: str, samples: np.ndarray = TONE) -> Path:
    source = path.parent / "source.wav"
    sf.write(source, samples, RATE)
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, *options, path], check=True)
    return path


@pytest.fixture
def counting_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for ffmpeg that copies a recording and writes a line for each call."""
    sf.write(tmp_path / "decoded.wav", TONE, RATE, subtype="FLOAT")
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "ffmpeg"
    program.write_text(
        f'#!/bin/sh\nfor last; do :; done; echo call >> "{tmp_path}/calls"\n'
        f'/bin/cp "{tmp_path}/decoded.wav" "${{last#file:}}"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(programs))
    return tmp_path / "calls"


def test_one_decode_serves_all_spans(tmp_path: Path, counting_ffmpeg: Path) -> None:
    path = tmp_path / "long.m4a"
    path.write_bytes(MP4_HEAD + bytes(500))
    assert audio_info(path).seconds == 3.0
    for cue in range(30):
        span = load_audio(path, start=cue * 0.1, end=cue * 0.1 + 0.1)
        assert np.abs(span - TONE[cue * 1600 : cue * 1600 + 1600]).max() < 1e-6
    assert counting_ffmpeg.read_text().splitlines() == ["call"]
    path.write_bytes(MP4_HEAD + bytes(600))
    load_audio(path)
    assert counting_ffmpeg.read_text().splitlines() == ["call"] * 2


def test_nothing_lies_in_the_folder_of_temporary_files(
    tmp_path: Path, counting_ffmpeg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    path = tmp_path / "clip.m4a"
    path.write_bytes(MP4_HEAD + bytes(500))
    joined = tmp_path / "joined.flac"
    sf.write(tmp_path / "part.flac", TONE, RATE)
    joined.write_bytes((tmp_path / "part.flac").read_bytes() * 2)
    assert len(load_audio(path)) == len(TONE)
    assert len(load_audio(joined)) == 2 * len(TONE)
    assert list(folder.iterdir()) == []


def decoded_file(num_bytes: int) -> DecodedFile:
    stream = tempfile.TemporaryFile()  # noqa: SIM115 - the decoded file closes it
    stream.truncate(num_bytes)
    return DecodedFile(stream)


def test_the_oldest_files_are_given_up_when_they_take_too_much_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoder, "_MAX_BYTES", 250)
    files, calls = DecodedFiles(), []

    def decode(name: str) -> DecodedFile:
        calls.append(name)
        return decoded_file(100)

    for name in "abacab":
        files.get(name, lambda name=name: decode(name))  # type: ignore[misc]
    assert calls == ["a", "b", "c", "b"]
    assert files.was_given_up("c") and not files.was_given_up("b")


def test_a_file_that_cannot_be_decoded_is_tried_once() -> None:
    files, calls = DecodedFiles(), []

    def fail() -> DecodedFile:
        calls.append(1)
        raise AudioError("damaged")

    for _ in range(3):
        with pytest.raises(AudioError, match="damaged"):
            files.get("key", fail)
    assert len(calls) == 1


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("phone.wav", ("-c:a", "g726", "-ar", "8000", "-b:a", "32k")),
        ("g722.wav", ("-c:a", "g722")),
        ("dictation.wav", ("-c:a", "adpcm_yamaha")),
        ("flac.ogg", ("-c:a", "flac")),
        ("speex.ogg", ("-c:a", "libspeex")),
        ("alac.caf", ("-c:a", "alac")),
        ("piped.flac", ()),
    ],
)
def test_codecs_that_libsndfile_lacks_in_containers_that_it_reads(
    tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    path = tmp_path / name
    if name == "piped.flac":
        sf.write(tmp_path / "source.flac", TONE, RATE)
        raw = bytearray((tmp_path / "source.flac").read_bytes())
        raw[21] &= 0xF0  # the number of samples in the header: unknown
        raw[22:26] = bytes(4)
        path.write_bytes(raw)
    else:
        try:
            converted(path, *options)
        except subprocess.CalledProcessError:
            pytest.skip("this ffmpeg lacks the encoder")
    assert audio_info(path).seconds == pytest.approx(3.0, abs=0.1)
    samples = load_audio(path)
    assert np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples) == pytest.approx(440, abs=5)


@pytest.mark.parametrize("head", [b"fLaC", b"OggS\0\x02" + bytes(20) + b"\x01\x1e"])
def test_without_a_decoder_an_unknown_codec_names_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setenv("PATH", "")
    path = tmp_path / "clip.ogg"
    path.write_bytes(head + bytes(200))
    with pytest.raises(DecoderMissingError, match="ffmpeg"):
        load_audio(path)


@needs_ffmpeg
def test_a_channel_of_a_foreign_file_is_read_by_itself(tmp_path: Path) -> None:
    high = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(len(TONE)) / RATE)
    path = converted(
        tmp_path / "stereo.m4a", "-c:a", "alac", samples=np.stack([TONE, high], axis=1)
    )
    for channel, expected in ((1, TONE), (2, high), (None, (TONE + high) / 2)):
        assert np.abs(load_audio(path, channel=channel)[:-200] - expected[:-200]).max() < 0.01
    with pytest.raises(AudioError, match="no channel 3: the recording has 2"):
        load_audio(path, channel=3)


PLAYLISTS = {
    "list.m4a": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsource.wav\n#EXT-X-ENDLIST\n",
    "list.wav": "#EXTM3U\n#EXTINF:9,\nsource.wav\n",
    "concat.mp4": "ffconcat version 1.0\nfile 'source.wav'\n",
    "page.webm": "<html>404</html>",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_list_of_files_is_no_recording(tmp_path: Path, name: str) -> None:
    sf.write(tmp_path / "source.wav", TONE, RATE)
    path = tmp_path / name
    path.write_text(PLAYLISTS[name])
    with pytest.raises(AudioError, match=r"cannot|ffmpeg"):
        load_audio(path)


def test_pipes_and_devices_are_no_recordings(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(AudioError, match="a pipe or a device"):
            load_audio(path)


@pytest.mark.parametrize("rate", [1, 0xFFFF_FFF0])
def test_a_rate_that_no_recorder_has_is_refused(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "rate.wav"
    sf.write(path, TONE, RATE)
    raw = bytearray(path.read_bytes())
    raw[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(AudioError):
        load_audio(path)


@pytest.mark.parametrize("seed", range(12))
def test_damaged_headers_give_a_plain_error_or_audio(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ending = ("wav", "flac", "mp3", "ogg", "aiff", "w64")[seed % 6]
    path = tmp_path / f"damaged.{ending}"
    sf.write(path, TONE, RATE, format="W64" if ending == "w64" else None)
    raw = bytearray(path.read_bytes())
    for position in rng.integers(4, 60, 6):
        raw[position] = rng.integers(0, 256)
    path.write_bytes(raw)
    try:
        assert len(load_audio(path)) < 100 * len(TONE)
    except AudioError as error:
        assert str(path) in str(error)

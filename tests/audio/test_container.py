"""All audio of a file is read, or the file is named: joined, cut off, or with a wrong header."""

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from moonshine_tune.audio import io
from moonshine_tune.audio.container import extent_of
from moonshine_tune.audio.io import audio_info, load_audio
from moonshine_tune.core.errors import AudioError

RATE = 16_000
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def speech_like(seconds: float, frequency: float) -> np.ndarray:
    time = np.arange(round(RATE * seconds)) / RATE
    noise = np.random.default_rng(round(frequency)).normal(0, 0.002, len(time))
    return 0.3 * np.sin(2 * np.pi * frequency * time) * (np.sin(9 * time) > -0.5) + noise


FIRST, SECOND = speech_like(1.5, 300.0), speech_like(2.25, 700.0)
ID3 = b"ID3\x04\0\0" + bytes([0, 0, 8, 0]) + bytes(8 * 128)
ID3_AT_END = b"TAG" + b"title".ljust(125, b"\0")


def encoded(folder: Path, samples: np.ndarray, ending: str, subtype: str | None = None) -> bytes:
    path = folder / f"part.{ending}"
    audio_format = {"opus": "OGG", "w64": "W64", "rf64": "RF64", "aiff": "AIFF"}.get(ending)
    sf.write(path, samples, RATE, subtype=subtype, format=audio_format)
    return path.read_bytes()


def converted(folder: Path, samples: np.ndarray, name: str, *options: str) -> bytes:
    source, path = folder / "source.wav", folder / name
    sf.write(source, samples, RATE)
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, *options, path], check=True)
    return path.read_bytes()


def is_tone(samples: np.ndarray, frequency: float) -> bool:
    spectrum = np.abs(np.fft.rfft(samples))
    return abs(spectrum.argmax() * RATE / len(samples) - frequency) < 10


def check_both(path: Path, slack: float = 0.02) -> None:
    """Both parts are there, in order, whole and in spans."""
    seconds = (len(FIRST) + len(SECOND)) / RATE
    info, samples = audio_info(path), load_audio(path)
    assert info.seconds == pytest.approx(seconds, abs=slack)
    assert [remark.kind for remark in info.remarks] == ["joined"]
    assert len(samples) == pytest.approx(seconds * RATE, abs=slack * RATE)
    assert is_tone(samples[: len(FIRST)], 300)
    assert is_tone(samples[len(FIRST) :], 700)
    assert is_tone(load_audio(path, start=2.0, end=3.5), 700)


@pytest.mark.parametrize(
    ("ending", "subtype"),
    [
        ("wav", "PCM_16"),
        ("wav", "PCM_24"),
        ("wav", "FLOAT"),
        ("rf64", "PCM_16"),
        ("w64", "PCM_16"),
        ("aiff", "PCM_16"),
        ("au", "PCM_16"),
        ("caf", "PCM_16"),
        ("flac", "PCM_16"),
        ("ogg", "VORBIS"),
        ("opus", "OPUS"),
        ("mp3", "MPEG_LAYER_III"),
    ],
)
def test_joined_files_are_read_to_the_end_of_the_last(
    tmp_path: Path, ending: str, subtype: str
) -> None:
    path = tmp_path / f"joined.{ending}"
    parts = [encoded(tmp_path, part, ending, subtype) for part in (FIRST, SECOND)]
    path.write_bytes(parts[0] + parts[1])
    check_both(path)


@pytest.mark.parametrize("ending", ["mp3", "flac"])
def test_tags_between_joined_files_are_no_audio(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"joined.{ending}"
    parts = [encoded(tmp_path, part, ending) for part in (FIRST, SECOND)]
    path.write_bytes(ID3 + parts[0] + ID3_AT_END + ID3 + parts[1] + ID3_AT_END)
    if ending == "flac":
        assert len(load_audio(path)) == len(FIRST) + len(SECOND)
    else:
        check_both(path)


def test_equal_files_are_counted_each(tmp_path: Path) -> None:
    for ending in ("wav", "flac", "ogg", "mp3"):
        path = tmp_path / f"joined.{ending}"
        path.write_bytes(encoded(tmp_path, FIRST, ending) * 3)
        assert audio_info(path).seconds == pytest.approx(4.5, abs=0.02)


def test_the_rate_of_a_later_file_may_differ(tmp_path: Path) -> None:
    path = tmp_path / "joined.wav"
    sf.write(tmp_path / "slow.wav", SECOND[::2], RATE // 2)
    path.write_bytes(encoded(tmp_path, FIRST, "wav") + (tmp_path / "slow.wav").read_bytes())
    check_both(path)


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_a_large_flac_is_sampled_instead_of_searched(tmp_path: Path, copies: int) -> None:
    path = tmp_path / "long.flac"
    noise = np.random.default_rng(0).normal(0, 0.1, RATE * 90)
    path.write_bytes(encoded(tmp_path, noise, "flac") * copies)
    assert path.stat().st_size > 1 << 20
    stat = path.stat()
    assert len(extent_of(path, stat.st_size, stat.st_mtime_ns).parts) == copies


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "options", "slack"),
    [
        ("part.m4a", (), 0.15),
        ("part.webm", ("-c:a", "libopus"), 0.05),
        ("part.ogg", ("-c:a", "flac"), 0.02),
        ("part.wav", ("-c:a", "g726", "-ar", "8000", "-b:a", "32k"), 0.02),
        ("part.caf", ("-c:a", "alac"), 0.02),
    ],
)
def test_joined_files_of_any_codec_are_read_to_the_end(
    tmp_path: Path, name: str, options: tuple[str, ...], slack: float
) -> None:
    path = tmp_path / f"joined{Path(name).suffix}"
    path.write_bytes(b"".join(converted(tmp_path, x, name, *options) for x in (FIRST, SECOND)))
    seconds = (len(FIRST) + len(SECOND)) / RATE
    samples = load_audio(path)
    assert len(samples) / RATE == pytest.approx(seconds, abs=slack)
    assert is_tone(samples[: len(FIRST) - 2000], 300)
    assert is_tone(samples[-len(SECOND) + 2000 :], 700)


def with_lengths(raw: bytes, data: int, riff: int) -> bytes:
    changed = bytearray(raw)
    offset = raw.index(b"data")
    changed[4:8], changed[offset + 4 : offset + 8] = (
        struct.pack("<I", riff),
        struct.pack("<I", data),
    )
    return bytes(changed)


@pytest.mark.parametrize("length", [0, 0xFFFF_FFFF, 0x7FFF_FFFF])
def test_a_wav_without_a_length_is_read_to_its_end(tmp_path: Path, length: int) -> None:
    path = tmp_path / "stream.wav"
    path.write_bytes(with_lengths(encoded(tmp_path, FIRST, "wav"), length, length))
    assert audio_info(path).seconds == 1.5
    assert len(load_audio(path)) == len(FIRST)


def test_a_wav_whose_header_is_too_short_is_named_with_both_readings(tmp_path: Path) -> None:
    path = tmp_path / "recorder stopped.wav"
    path.write_bytes(with_lengths(encoded(tmp_path, FIRST, "wav"), 16_000, 16_036))
    for read in (audio_info, load_audio):
        with pytest.raises(AudioError, match=r"states 0\.50 s, and 1\.00 s of data follow") as info:
            read(path)
        assert "-ignore_length 1" in (info.value.hint or "")
        assert f"'{path}'" in (info.value.hint or "")


@pytest.mark.parametrize("ending", ["wav", "aiff", "w64", "au", "caf", "rf64"])
def test_fewer_samples_than_the_header_states_are_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"cut.{ending}"
    raw = encoded(tmp_path, FIRST, ending)
    path.write_bytes(raw[: len(raw) // 2])
    for read in (audio_info, load_audio):
        with pytest.raises(AudioError, match=r"cut off: 0\.[67]\d of 1\.50 s"):
            read(path)


@pytest.mark.parametrize("ending", ["ogg", "opus"])
def test_an_ogg_that_ends_within_a_page_is_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"cut.{ending}"
    raw = encoded(tmp_path, SECOND, ending)
    path.write_bytes(raw[: len(raw) * 2 // 3])
    with pytest.raises(AudioError, match="cut off"):
        load_audio(path)


TRAILERS = {
    "id3v1": ID3_AT_END,
    "zeros": bytes(70_000),
    "ape": b"APETAGEX" + struct.pack("<IIII", 2000, 1000, 0, 0) + bytes(8) + b"x" * 968,
    "lyrics": b"LYRICSBEGIN" + b"a" * 9000 + b"009011LYRICS200",
    "list": b"LIST" + struct.pack("<I", 9000) + b"INFO" + b"x" * 8996,
    "bytes": b"\x01\x02\x03",
}


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "ogg"])
def test_what_follows_the_audio_is_no_audio(tmp_path: Path, ending: str, trailer: str) -> None:
    path = tmp_path / f"tagged.{ending}"
    path.write_bytes(encoded(tmp_path, FIRST, ending) + TRAILERS[trailer])
    info = audio_info(path)
    assert info.seconds == pytest.approx(1.5, abs=0.001)
    assert info.remarks == ()
    assert len(load_audio(path)) == pytest.approx(len(FIRST), abs=2)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "aiff", "mp3"])
def test_a_tag_before_the_audio_is_skipped(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"tagged.{ending}"
    path.write_bytes(ID3 + encoded(tmp_path, FIRST, ending))
    assert audio_info(path).seconds == pytest.approx(1.5, abs=0.001)
    assert is_tone(load_audio(path), 300)


@needs_ffmpeg
@pytest.mark.parametrize(("quality", "begin"), [("5", 0.01), ("5", 0.5), ("9", 0.5)])
def test_frames_of_an_mp3_without_a_table_are_counted(
    tmp_path: Path, quality: str, begin: float
) -> None:
    noise = np.random.default_rng(1).normal(0, 1, RATE * 6)
    quiet_then_loud = noise * np.where(np.arange(len(noise)) < RATE * 3, begin, 0.51 - begin)
    path = tmp_path / "no table.mp3"
    options = ("-q:a", quality, "-write_xing", "0")
    path.write_bytes(converted(tmp_path, quiet_then_loud * 0.3, "part.mp3", *options))
    assert audio_info(path).seconds == pytest.approx(6.0, abs=0.15)
    assert len(load_audio(path)) == pytest.approx(RATE * 6, abs=0.15 * RATE)


@needs_ffmpeg
def test_a_foreign_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    long = speech_like(20.0, 300)
    raw = converted(tmp_path, long, "whole.m4a", "-movflags", "+faststart")
    path = tmp_path / "half.m4a"
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(AudioError, match=r"cut off: \d+\.\d\d of 20\.\d\d s"):
        load_audio(path)


@pytest.mark.parametrize("is_long", [False, True])
def test_a_span_of_an_mp3_does_not_depend_on_earlier_spans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_long: bool
) -> None:
    monkeypatch.setattr(io, "_LONG_MP3_S", 10.0 if is_long else 600.0)
    samples = np.random.default_rng(2).normal(0, 0.1, RATE * 20)
    first, second = tmp_path / "a.mp3", tmp_path / "b.mp3"
    first.write_bytes(encoded(tmp_path, samples, "mp3"))
    shutil.copy(first, second)
    fresh = load_audio(first, start=12.0, end=13.0)
    for start in (0.0, 18.0, 5.0):
        load_audio(second, start=start, end=start + 1.0)
    load_audio(second)
    assert np.array_equal(load_audio(second, start=12.0, end=13.0), fresh)


@pytest.mark.parametrize("seconds", [0.5, 1.0])
def test_a_flac_whose_header_is_too_short_is_read_to_its_end(
    seconds: float, tmp_path: Path
) -> None:
    content = bytearray(encoded(tmp_path, FIRST, "flac"))
    content[22:26] = struct.pack(">I", round(seconds * RATE))
    path = tmp_path / "short.flac"
    path.write_bytes(content)
    assert audio_info(path).seconds == len(FIRST) / RATE
    assert len(load_audio(path)) == len(FIRST)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_flac_that_was_cut_off_is_named_by_its_header(share: float, tmp_path: Path) -> None:
    content = encoded(tmp_path, np.tile(FIRST, 4), "flac")
    path = tmp_path / "cut.flac"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(AudioError, match=r"cut off: .* of 6\.00 s are there"):
        audio_info(path)


def test_a_second_chunk_of_audio_is_named(tmp_path: Path) -> None:
    content = encoded(tmp_path, FIRST, "wav")
    path = tmp_path / "twice.wav"
    path.write_bytes(content + content[36:])
    with pytest.raises(AudioError, match=r"its header states 1\.50 s, and 1\.50 s of data follow"):
        audio_info(path)


@needs_ffmpeg
def test_a_wma_that_was_cut_off_is_named(tmp_path: Path) -> None:
    content = converted(tmp_path, FIRST, "a.wma")
    path = tmp_path / "cut.wma"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match="cut off"):
        audio_info(path)


@needs_ffmpeg
def test_a_second_audio_track_is_named(tmp_path: Path) -> None:
    sf.write(tmp_path / "second.wav", SECOND, RATE)
    second = ("-i", str(tmp_path / "second.wav"), "-map", "0", "-map", "1")
    converted(tmp_path, FIRST, "tracks.m4a", *second)
    (remark,) = audio_info(tmp_path / "tracks.m4a").remarks
    assert (remark.kind, remark.text) == ("tracks", "2 audio tracks, the first is read")


@pytest.mark.parametrize("content", [b".snd1234", b"caff\0\1\0\0desc" + b"\xff" * 8 + bytes(40)])
def test_a_header_that_ends_early_or_states_too_much_is_refused(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError):
        audio_info(path)

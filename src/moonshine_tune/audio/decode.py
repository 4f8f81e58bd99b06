"""Any recording as mono float32 at 16 kHz: what Moonshine hears.

soundfile reads WAV, FLAC, OGG and MP3, soxr resamples. What libsndfile cannot read (M4A, AAC, WMA)
goes through `ffmpeg`, or on macOS through `afconvert`, where one is on the PATH.
"""

import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

from moonshine_tune.errors import AudioError
from moonshine_tune.files import write_bytes_atomic
from moonshine_tune.manifest import Utterance

SAMPLE_RATE_HZ = 16_000
Samples = npt.NDArray[np.float32]

_FOREIGN = {".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr", ".3gp", ".opus", ".mov", ".caf"}
_DECODER_TIMEOUT_S = 600
_BLOCK_FRAMES = 1 << 22
# Headers of streams that were not finished hold no length, or the largest one that fits.
_UNKNOWN_FRAMES = 1 << 60
_OPEN_LENGTH = 0x7FFF_0000
# Manifests round times, and encoders pad or trim a frame at the end.
_SPAN_SLACK_S = 0.15
_LENGTH_SLACK_S = 0.1


class DecoderMissingError(AudioError):
    """The recording is in a format that needs an external decoder, and there is none."""


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

    seconds: float
    sample_rate_hz: int
    channels: int
    format: str


def audio_info(path: Path) -> AudioInfo:
    """Length and format of a recording, without decoding its samples where the format allows it.

    Raises:
        AudioError: missing, empty, cut off or unreadable.
    """
    _check_is_file(path)
    if _is_foreign(path):
        samples = _decode_foreign(path, None, None)
        return AudioInfo(len(samples) / SAMPLE_RATE_HZ, SAMPLE_RATE_HZ, 1, path.suffix[1:].upper())
    with _opened(path) as file:
        frames = file.frames if file.frames < _UNKNOWN_FRAMES else len(_read_frames(file, -1, path))
        kind = f"{file.format} {file.subtype}"
        return AudioInfo(frames / file.samplerate, file.samplerate, file.channels, kind)


def load_audio(path: Path, *, start: float | None = None, end: float | None = None) -> Samples:
    """Samples of a recording, or of a span of it in seconds; only the span is decoded.

    Channels are averaged. Samples beyond ±1 of float files stay as they are: the models do not
    depend on loudness, and cutting the peaks off would add distortion that was not recorded.

    Returns:
        float32 [samples], mono, 16 kHz.

    Raises:
        AudioError: missing, empty, cut off, unreadable, not finite, or the span lies outside.
    """
    _check_is_file(path)
    if _is_foreign(path):
        return _checked(_decode_foreign(path, start, end), path)
    with _opened(path) as file:
        rate = file.samplerate
        first = round((start or 0.0) * rate)
        last = None if end is None else round(end * rate)
        if file.frames < _UNKNOWN_FRAMES:
            _check_span(start or 0.0, end, file.frames / rate, path)
            if first:
                file.seek(first)
            last = file.frames if last is None else min(last, file.frames)
            frames = _read_frames(file, last - first, path)
        else:
            frames = _read_frames(file, -1, path)
            _check_span(start or 0.0, end, len(frames) / rate, path)
            frames = frames[first:last]
    mono = frames.mean(axis=1, dtype=np.float32) if frames.shape[1] > 1 else frames[:, 0]
    if rate != SAMPLE_RATE_HZ and len(mono):
        mono = soxr.resample(mono, rate, SAMPLE_RATE_HZ, quality="HQ")
    return _checked(mono, path)


def load_utterance(utterance: Utterance) -> Samples:
    """Samples of an utterance.

    Raises:
        AudioError: as `load_audio`, naming the utterance.
    """
    try:
        return load_audio(utterance.audio, start=utterance.start, end=utterance.end)
    except AudioError as error:
        raise AudioError(
            f"utterance {utterance.id}: {error.message}", where=utterance.audio, hint=error.hint
        ) from error


def write_audio(path: Path, samples: Samples, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write mono 16-bit WAV or FLAC, by the name's ending; complete or not at all."""
    kind = "FLAC" if path.suffix.lower() == ".flac" else "WAV"
    buffer = io.BytesIO()
    sf.write(buffer, np.clip(samples, -1.0, 1.0), sample_rate_hz, format=kind, subtype="PCM_16")
    write_bytes_atomic(path, buffer.getvalue())


def change_tempo(samples: Samples, tempo: float) -> Samples:
    """Speech `tempo` times as fast, with its pitch moved along, as a tape would play it."""
    if tempo == 1.0:
        return samples
    faster = soxr.resample(samples, SAMPLE_RATE_HZ * tempo, SAMPLE_RATE_HZ, quality="HQ")
    return np.asarray(faster, dtype=np.float32)


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        what = "a folder, not a recording" if path.is_dir() else "no such recording"
        raise AudioError(what, where=path, hint="check the path in the manifest")
    if path.stat().st_size == 0:
        raise AudioError("the file is empty", where=path, hint="remove it from the manifest")


def _check_span(start: float, end: float | None, seconds: float, path: Path) -> None:
    """Refuse a span that is not in the recording: its text would not be what is heard."""
    if (start and start >= seconds) or (end is not None and end > seconds + _SPAN_SLACK_S):
        span = f"begins at {start:g} s" if end is None else f"is {start:g} to {end:g} s"
        raise AudioError(
            f"the span {span}, the recording has {seconds:.2f} s",
            where=path,
            hint="mend start and end in the manifest",
        )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file as soundfile reads it; all that can go wrong in it becomes an AudioError."""
    try:
        _check_riff_is_whole(path)
        with sf.SoundFile(str(path)) as file:
            yield file
    except sf.LibsndfileError as error:
        raise AudioError(
            f"cannot be read as audio ({error.error_string.rstrip('.')})",
            where=path,
            hint="play it once; if it does not play, it is damaged: remove it from the manifest",
        ) from error
    except TypeError as error:
        # soundfile takes names such as clip.raw for samples without any header.
        raise AudioError(
            f"a {path.suffix} file does not say its sample rate",
            where=path,
            hint="convert it to WAV or FLAC",
        ) from error
    except OSError as error:
        raise AudioError(
            f"cannot be opened ({error.strerror or error})", where=path, hint="check its rights"
        ) from error


def _check_riff_is_whole(path: Path) -> None:
    """Refuse a WAV whose samples end before its header says: libsndfile would read the rest as if
    it were all. Lengths that a stream's writer left open (0, or near 4 GB) are no promise.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return
        size = path.stat().st_size
        block, rate = 0, 0
        while len(chunk := file.read(8)) == 8:
            name, length = chunk[:4], int.from_bytes(chunk[4:], "little")
            if name == b"fmt " and length >= 16:
                body = file.read(16)
                rate, block = (
                    int.from_bytes(body[4:8], "little"),
                    int.from_bytes(body[12:14], "little"),
                )
                file.seek(length + length % 2 - 16, os.SEEK_CUR)
            elif name == b"data":
                there = size - file.tell()
                if there < length < _OPEN_LENGTH and rate and block:
                    raise AudioError(
                        f"cut off: {there / block / rate:.2f} of {length / block / rate:.2f} s "
                        "are there",
                        where=path,
                        hint="copy it again from where it came, or remove it from the manifest",
                    )
                return
            else:
                file.seek(length + length % 2, os.SEEK_CUR)


def _read_frames(file: Any, count: int, path: Path) -> Samples:
    """`count` frames from here on (-1: to the end), float32 [frames, channels].

    Block by block: a header may promise more frames than memory holds, or not know their number.
    """
    blocks: list[Samples] = []
    left = count
    while left != 0:
        block = file.read(
            _BLOCK_FRAMES if left < 0 else min(left, _BLOCK_FRAMES),
            dtype="float32",
            always_2d=True,
        )
        if not len(block):
            break
        blocks.append(block)
        left = left - len(block) if left > 0 else left
    # MP3 without a table of contents only estimates its length.
    if left > _LENGTH_SLACK_S * file.samplerate and file.format != "MP3":
        raise AudioError(
            f"cut off: {left / file.samplerate:.2f} s before its end",
            where=path,
            hint="copy it again from where it came, or remove it from the manifest",
        )
    if not blocks:
        return np.zeros((0, file.channels), dtype=np.float32)
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _checked(samples: npt.NDArray[np.floating], path: Path) -> Samples:
    if not len(samples):
        raise AudioError("no samples", where=path, hint="remove it from the manifest")
    if not np.isfinite(samples).all():
        raise AudioError("holds samples that are not numbers", where=path, hint="record it again")
    return np.ascontiguousarray(samples, dtype=np.float32)


def _is_foreign(path: Path) -> bool:
    """Whether libsndfile does not read this format, by its first bytes; the name decides where
    they tell nothing.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise AudioError(
            f"cannot be opened ({error.strerror or error})", where=path, hint="check its rights"
        ) from error
    if head[4:8] == b"ftyp" or head.startswith(
        (b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75", b"#!AMR")
    ):
        return True  # MP4 and its kin, WebM, WMA, AMR
    if head.startswith((b"RIFF", b"fLaC", b"OggS", b"ID3", b"FORM", b"caff")):
        return False
    return path.suffix.lower() in _FOREIGN


def _decode_foreign(path: Path, start: float | None, end: float | None) -> Samples:
    """Decode by an external program what libsndfile does not read."""
    program = next((name for name in ("ffmpeg", "afconvert") if shutil.which(name)), None)
    if program is None:
        raise DecoderMissingError(
            f"reading {path.suffix or 'this file'} needs the decoder ffmpeg, which is not installed",
            where=path,
            hint="install it (brew install ffmpeg, or apt install ffmpeg), or convert to WAV",
        )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "decoded.wav"
        command = (
            # Only files: a playlist that calls itself audio must not reach for the network.
            [program, "-nostdin", "-v", "error", "-protocol_whitelist", "file",
             "-i", f"file:{path.absolute()}", "-vn", "-ac", "1",
             "-ar", str(SAMPLE_RATE_HZ), "-c:a", "pcm_f32le", f"file:{target}"]
            if program == "ffmpeg"
            else [program, "-f", "WAVE", "-d", f"LEF32@{SAMPLE_RATE_HZ}", "-c", "1",
                  str(path.absolute()), str(target)]
        )  # fmt: skip
        reason = ""
        try:
            done = subprocess.run(
                command, capture_output=True, check=False, timeout=_DECODER_TIMEOUT_S
            )
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            if done.returncode != 0 or not target.is_file():
                reason = said[-1] if said else "no reason given"
        except subprocess.TimeoutExpired:
            reason = f"no result after {_DECODER_TIMEOUT_S} s"
        if reason:
            raise AudioError(
                f"{program} cannot decode it: {reason}",
                where=path,
                hint="play it once; if it does not play, it is damaged: remove it",
            )
        with _opened(target) as file:
            seconds = file.frames / SAMPLE_RATE_HZ
            _check_span(start or 0.0, end, seconds, path)
            first = round((start or 0.0) * SAMPLE_RATE_HZ)
            last = file.frames if end is None else min(round(end * SAMPLE_RATE_HZ), file.frames)
            file.seek(first)
            return _read_frames(file, last - first, path)[:, 0]

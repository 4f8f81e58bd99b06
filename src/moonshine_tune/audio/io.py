"""Read recordings as mono float32 at 16 kHz, the input of Moonshine; write WAV and FLAC.

soundfile reads WAV, FLAC, OGG and MP3, and soxr resamples. Formats that libsndfile cannot read
(M4A, AAC, WMA) are decoded by `ffmpeg`, or on macOS by `afconvert`, where one is on the PATH.
"""

import io
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

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.core.errors import AudioError
from moonshine_tune.core.files import write_bytes_atomic
from moonshine_tune.corpus.manifest import Utterance

AUDIO_ENDINGS = frozenset(
    (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".mp4", ".aiff", ".aif",
     ".au", ".caf", ".wma", ".webm", ".amr", ".3gp")
)  # fmt: skip

_FOREIGN_ENDINGS = {".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr", ".3gp", ".opus", ".mov",
                    ".caf"}  # fmt: skip
_DECODER_TIMEOUT_S = 600
_BLOCK_FRAMES = 1 << 22
_MP3_LEAD_IN = 16 * 1152
# Unfinished WAV streams have the length 0 or the largest that fits in their header.
_OPEN_LENGTH = 0x7FFF_0000
_UNKNOWN_FRAMES = 1 << 60  # libsndfile's length of an unfinished FLAC stream
# Manifests round times, and encoders pad or trim a frame at the end.
_SPAN_SLACK_S = 0.15
_LENGTH_SLACK_S = 0.1


class DecoderMissingError(AudioError):
    """The format needs an external decoder, and none is installed."""


@dataclass(frozen=True)
class AudioInfo:
    """Length and format of a recording, from its header."""

    seconds: float
    sample_rate_hz: int
    channels: int
    format: str


def audio_info(path: Path) -> AudioInfo:
    """Length and format of a recording; only foreign formats are decoded for it.

    Raises:
        AudioError: missing, empty, cut off or unreadable.
    """
    _check_is_file(path)
    if _is_foreign(path):
        samples = _decode_foreign(path, None, None)
        return AudioInfo(len(samples) / SAMPLE_RATE_HZ, SAMPLE_RATE_HZ, 1, path.suffix[1:].upper())
    with _opened(path) as file:
        name = f"{file.format} {file.subtype}"
        return AudioInfo(file.frames / file.samplerate, file.samplerate, file.channels, name)


def load_audio(
    path: Path,
    *,
    start: float | None = None,
    end: float | None = None,
    channel: int | None = None,
) -> Samples:
    """Samples of a recording, or of a span of it; only the span is decoded.

    Samples beyond ±1 of float files stay as they are: cut peaks would add distortion that was not
    recorded.

    Args:
        start, end: the span in seconds.
        channel: the one to read, from 1; None averages all channels.

    Returns:
        float32 [samples], mono, 16 kHz.

    Raises:
        AudioError: missing, empty, cut off, unreadable or not finite; a span outside the
            recording; or no such channel.
    """
    _check_is_file(path)
    if _is_foreign(path):
        if channel is not None and channel > 1:
            raise AudioError(
                f"channel {channel} of a {path.suffix} file cannot be read by itself",
                where=path,
                hint="convert it to WAV or FLAC first",
            )
        return _checked(_decode_foreign(path, start, end), path)
    with _opened(path) as file:
        rate = file.samplerate
        _check_span(start or 0.0, end, file.frames / rate, path)
        first = round((start or 0.0) * rate)
        last = file.frames if end is None else min(round(end * rate), file.frames)
        # An MP3 frame uses bits of the frames before it and is silent without them.
        lead_in = min(first, _MP3_LEAD_IN) if file.format == "MP3" else 0
        if first:
            file.seek(first - lead_in)
        frames = _read_frames(file, last - first + lead_in, path)[lead_in:]
    if channel is not None:
        if channel > frames.shape[1]:
            raise AudioError(
                f"there is no channel {channel}: the recording has {frames.shape[1]}",
                where=path,
                hint="choose another channel with --channel",
            )
        frames = frames[:, channel - 1 : channel]
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
    audio_format = "FLAC" if path.suffix.lower() == ".flac" else "WAV"
    # Encoded in memory, so that a full disk raises an ordinary OSError.
    buffer = io.BytesIO()
    clipped = np.clip(samples, -1.0, 1.0)
    sf.write(buffer, clipped, sample_rate_hz, format=audio_format, subtype="PCM_16")
    write_bytes_atomic(path, buffer.getvalue())


def change_tempo(samples: Samples, tempo: float) -> Samples:
    """Speech `tempo` times as fast; pitch changes along, as on a tape."""
    if tempo == 1.0:
        return samples
    faster = soxr.resample(samples, SAMPLE_RATE_HZ * tempo, SAMPLE_RATE_HZ, quality="HQ")
    return np.asarray(faster, dtype=np.float32)


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        message = "a folder, not a recording" if path.is_dir() else "no such recording"
        raise AudioError(message, where=path, hint="check the path in the manifest")
    if path.stat().st_size == 0:
        raise AudioError("the file is empty", where=path, hint="remove it from the manifest")


def _check_span(start: float, end: float | None, seconds: float, path: Path) -> None:
    """Refuse a span outside the recording: its text would not match its audio."""
    if (start and start >= seconds) or (end is not None and end > seconds + _SPAN_SLACK_S):
        span = f"starts at {start:g} s" if end is None else f"is {start:g} to {end:g} s"
        raise AudioError(
            f"the span {span}, the recording has {seconds:.2f} s",
            where=path,
            hint="fix start and end in the manifest",
        )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The open file; every failure of soundfile becomes an AudioError."""
    try:
        _check_wav_is_complete(path)
        with sf.SoundFile(str(path)) as file:
            if file.frames >= _UNKNOWN_FRAMES:
                raise AudioError(
                    "its header has no length",
                    where=path,
                    hint="write it again: ffmpeg -i OLD NEW.flac",
                )
            yield file
    except sf.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        if "File does not exist" in reason:  # libsndfile's error for an MP3 without a frame
            reason = "no audio in it"
        raise AudioError(
            f"cannot be read as audio ({reason})",
            where=path,
            hint="play it; if it does not play, it is damaged: remove it from the manifest",
        ) from error
    except TypeError as error:
        # soundfile reads names such as clip.raw as samples without a header.
        raise AudioError(
            f"a {path.suffix} file does not store its sample rate",
            where=path,
            hint="convert it to WAV or FLAC",
        ) from error
    except OSError as error:
        raise _cannot_open(path, error) from error


def _cannot_open(path: Path, error: OSError) -> AudioError:
    reason = error.strerror or error
    return AudioError(f"cannot be opened ({reason})", where=path, hint="check its permissions")


def _check_wav_is_complete(path: Path) -> None:
    """Refuse a WAV with fewer samples than its header states: libsndfile reads it without an error.

    Lengths that the writer of a stream left open (0, or near 4 GB) do not count.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return
        size = path.stat().st_size
        bytes_a_second = 0
        while len(chunk := file.read(8)) == 8:
            name, length = chunk[:4], int.from_bytes(chunk[4:], "little")
            start = file.tell()
            if name == b"fmt ":
                bytes_a_second = int.from_bytes(file.read(16)[8:12], "little")
            elif name == b"data":
                missing = length - (size - start)
                if length < _OPEN_LENGTH and missing > _LENGTH_SLACK_S * bytes_a_second > 0:
                    raise AudioError(
                        f"cut off: {(size - start) / bytes_a_second:.2f} of "
                        f"{length / bytes_a_second:.2f} s are there",
                        where=path,
                        hint="copy it again from its source, or remove it from the manifest",
                    )
                return
            file.seek(start + length + length % 2)


def _read_frames(file: Any, count: int, path: Path) -> Samples:
    """`count` frames from the current position, float32 [frames, channels].

    Read in blocks: a damaged header may state more frames than memory holds.
    """
    blocks = [np.zeros((0, file.channels), dtype=np.float32)]
    left = count
    while left > 0:
        block = file.read(min(left, _BLOCK_FRAMES), dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(block)
        left -= len(block)
    is_exact = file.format != "MP3" or _has_mp3_length(path)
    if is_exact and left > _LENGTH_SLACK_S * file.samplerate:
        raise AudioError(
            f"cut off: {left / file.samplerate:.2f} s are missing at its end",
            where=path,
            hint="copy it again from its source, or remove it from the manifest",
        )
    return blocks[1] if len(blocks) == 2 else np.concatenate(blocks)


def _has_mp3_length(path: Path) -> bool:
    """Whether an MP3 has a table of contents; without one, its length is an estimate."""
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3":
            size = 0
            for byte in head[6:10]:
                size = size * 128 + byte
            file.seek(10 + size)
        else:
            file.seek(0)
        first_frame = file.read(256)
    return b"Xing" in first_frame or b"Info" in first_frame


def _checked(samples: npt.NDArray[np.floating], path: Path) -> Samples:
    if not len(samples):
        raise AudioError("no samples", where=path, hint="remove it from the manifest")
    if not np.isfinite(samples).all():
        raise AudioError("some samples are not numbers", where=path, hint="record it again")
    return np.ascontiguousarray(samples, dtype=np.float32)


def _is_foreign(path: Path) -> bool:
    """Whether libsndfile cannot read this format: by its first bytes, else by its name."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise _cannot_open(path, error) from error
    if head[4:8] == b"ftyp" or head.startswith(
        (b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75", b"#!AMR")
    ):
        return True  # MP4 and its relatives, WebM, WMA, AMR
    if head.startswith(b"caff"):
        try:
            sf.info(str(path))
        except sf.LibsndfileError:
            return True  # libsndfile reads the container, but not Apple's codecs in it
        return False
    if head.startswith((b"RIFF", b"fLaC", b"OggS", b"ID3", b"FORM")):
        return False
    return path.suffix.lower() in _FOREIGN_ENDINGS


def _decode_foreign(path: Path, start: float | None, end: float | None) -> Samples:
    """Decode a format that libsndfile does not read, with an external program."""
    program = next((name for name in ("ffmpeg", "afconvert") if shutil.which(name)), None)
    if program is None:
        raise DecoderMissingError(
            f"reading {path.suffix or 'this'} needs ffmpeg, which is not installed",
            where=path,
            hint="install it (brew install ffmpeg, or apt install ffmpeg), or convert to WAV",
        )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "decoded.wav"
        command = (
            # Only files: a playlist named like audio must not open network addresses.
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
            messages = done.stderr.decode("utf-8", "replace").strip().splitlines()
            if done.returncode != 0 or not target.is_file():
                reason = messages[-1] if messages else "no reason given"
        except subprocess.TimeoutExpired:
            reason = f"no result after {_DECODER_TIMEOUT_S} s"
        if reason:
            raise AudioError(
                f"{program} cannot decode it: {reason}",
                where=path,
                hint="play it; if it does not play, it is damaged: remove it",
            )
        with _opened(target) as file:
            seconds = file.frames / SAMPLE_RATE_HZ
            _check_span(start or 0.0, end, seconds, path)
            first = round((start or 0.0) * SAMPLE_RATE_HZ)
            last = file.frames if end is None else min(round(end * SAMPLE_RATE_HZ), file.frames)
            file.seek(first)
            return _read_frames(file, last - first, path)[:, 0]

"""Recordings decoded once into temporary files without a name, for every span of them.

For formats that libsndfile does not read (by `ffmpeg`, or on macOS by `afconvert`), and for those
that hold several recordings or are slow to search. A file without a name takes disk and no memory,
and disappears with its process, however that ends.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Lock
from typing import IO, Any

import soundfile as sf
import soxr

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.errors import AudioError

_BLOCK_FRAMES = 1 << 18
_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 600
# Decoded files that are kept: 70 hours of one channel, or a quarter of the free disk.
_MAX_BYTES = 16 << 30
_FREE_SHARE = 4
# No playlists, no scripts and no lists of files, which name further files or addresses.
_DEMUXERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,eac3,ea,flac,flv,g722,g726,g726le,gsm,iff,"
    "ircam,latm,loas,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpc,mpc8,mpeg,mpegts,nistsphere,nut,"
    "ogg,oma,paf,qcp,rm,sln,sox,tak,tta,voc,w64,wav,wv,xwma"
)
_TRACK = re.compile(r"Stream #0:\d+.*: Audio: ")
_DURATION = re.compile(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
# Encoders pad, and containers of video state the length of the picture.
_DURATION_SLACK_S = 0.5


class DecoderMissingError(AudioError):
    """The format needs an external decoder, and none is installed."""


class DecodedFile:
    """Samples of a recording in a WAV file without a name.

    Attributes:
        num_tracks: audio tracks of the recording, of which this is the first.
    """

    def __init__(self, stream: IO[bytes], num_tracks: int = 1) -> None:
        self._stream = stream
        self.num_tracks = num_tracks
        self._lock = Lock()
        self.num_bytes = os.fstat(stream.fileno()).st_size

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """The open `soundfile.SoundFile`; threads wait for each other."""
        with self._lock:
            self._stream.seek(0)
            with sf.SoundFile(self._stream) as file:
                yield file


class _Slot:
    """The place of one decoded file; other threads wait while it is made."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.result: DecodedFile | AudioError | None = None


class DecodedFiles:
    """The decoded files of this process; the oldest are given up when they take too much disk."""

    def __init__(self) -> None:
        self._slots: OrderedDict[object, _Slot] = OrderedDict()
        self._given_up: set[object] = set()
        self._lock = Lock()

    def get(self, key: object, decode: Callable[[], DecodedFile]) -> DecodedFile:
        """The file of a key, decoded at its first use.

        Raises:
            AudioError: it cannot be decoded; the next call does not try again.
        """
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
        with slot.lock:
            if slot.result is None:
                try:
                    slot.result = decode()
                except DecoderMissingError:
                    raise
                except AudioError as error:
                    slot.result = error
                self._shrink()
            if isinstance(slot.result, AudioError):
                raise slot.result
            return slot.result

    def _shrink(self) -> None:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        with self._lock:
            sizes = {
                key: slot.result.num_bytes
                for key, slot in self._slots.items()
                if isinstance(slot.result, DecodedFile)
            }
            total = sum(sizes.values())
            budget = min(_MAX_BYTES, (free + total) // _FREE_SHARE)
            for key in list(sizes)[:-1]:
                if total <= budget:
                    break
                total -= sizes[key]
                self._given_up.add(key)
                del self._slots[key]

    def was_given_up(self, key: object) -> bool:
        """Whether a file was decoded before and took too much disk."""
        return key in self._given_up and key not in self._slots

    def forget(self) -> None:
        """Give up all files: a forked process shares their positions with its parent."""
        self.__init__()  # type: ignore[misc]


DECODED_FILES = DecodedFiles()
os.register_at_fork(after_in_child=DECODED_FILES.forget)


def has_decoder() -> bool:
    """Whether a program is installed that reads what libsndfile does not."""
    return _program() is not None


def _program() -> str | None:
    return next((name for name in ("ffmpeg", "afconvert") if shutil.which(name)), None)


def decode_foreign(path: Path, *, downmix: bool) -> DecodedFile:
    """Decode a format that libsndfile does not read, at 16 kHz, with an external program.

    Args:
        downmix: to one channel, weighted as the layout of the channels asks.

    Raises:
        DecoderMissingError: no such program is installed.
        AudioError: it cannot decode the file, or not to its end.
    """
    program = _program()
    if program is None:
        raise DecoderMissingError(
            f"reading {path.suffix or 'this'} needs ffmpeg, which is not installed",
            where=path,
            hint="install it (brew install ffmpeg, or apt install ffmpeg), or convert to WAV",
        )
    if program == "ffmpeg":
        return DecodedFile(*_run_ffmpeg(path, str(path.absolute()), downmix=downmix))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "decoded.wav"
        command = [program, "-f", "WAVE", "-d", f"LEF32@{SAMPLE_RATE_HZ}"]
        command += ["-c", "1"] if downmix else []
        messages = _run([*command, str(path.absolute()), str(target)], path)
        if not target.is_file():
            raise _cannot_decode(program, path, messages)
        return DecodedFile(target.open("rb"))


def _run_ffmpeg(path: Path, source: str, *inherited: int, downmix: bool) -> tuple[IO[bytes], int]:
    """The first audio track of a source, decoded, and the number of its audio tracks.

    Args:
        path: for messages.
        source: a file, or an inherited descriptor.
    """
    stream = tempfile.TemporaryFile()  # noqa: SIM115 - stays open while the file is in use
    try:
        descriptor = stream.fileno()
        # Only files: a playlist named like audio must not open network addresses.
        command = [
            "ffmpeg", "-nostdin", "-y", "-hide_banner", "-nostats", "-v", "level+info",
            "-protocol_whitelist", "file", "-format_whitelist", _DEMUXERS,
            "-i", f"file:{source}", "-map", "0:a:0", *(("-ac", "1") if downmix else ()),
            "-ar", str(SAMPLE_RATE_HZ), "-c:a", "pcm_f32le", "-rf64", "auto", "-f", "wav",
            f"file:/dev/fd/{descriptor}",
        ]  # fmt: skip
        messages = _run(command, path, descriptor, *inherited)
        if not os.fstat(descriptor).st_size:
            raise _cannot_decode("ffmpeg", path, messages)
        _check_duration(stream, messages, path)
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    of_output = next((n for n, line in enumerate(messages) if "Output #0" in line), len(messages))
    return stream, sum(_TRACK.search(line) is not None for line in messages[:of_output])


def _run(command: list[str], path: Path, *descriptors: int) -> list[str]:
    """The lines of its messages."""
    program = command[0]
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=_TIMEOUT_S, pass_fds=descriptors
        )
    except subprocess.TimeoutExpired as error:
        raise _cannot_decode(program, path, [f"no result after {_TIMEOUT_S} s"]) from error
    messages = done.stderr.decode("utf-8", "replace").strip().splitlines()
    if done.returncode != 0:
        raise _cannot_decode(program, path, messages)
    return messages


def _errors_of(messages: list[str]) -> list[str]:
    """The lines of ffmpeg that report an error, without their prefixes."""
    errors = [line for line in messages if "[error]" in line or "[fatal]" in line]
    return [re.sub(r"^(\[[^]]*\] )+(file:.*?: (?=[A-Z]))?", "", line) for line in errors]


def _cannot_decode(program: str, path: Path, messages: list[str]) -> AudioError:
    reason = (_errors_of(messages) or messages or ["no reason given"])[-1]
    if any("not on whitelist" in line for line in messages):
        reason = "a list or a script, not audio"
    return AudioError(
        f"{program} cannot decode it: {reason}",
        where=path,
        hint="play it; if it does not play, it is damaged: remove it",
    )


def _check_duration(stream: IO[bytes], messages: list[str], path: Path) -> None:
    """Refuse what ended with an error before the length that the container states."""
    errors = _errors_of(messages)
    stated = next((match for line in messages if (match := _DURATION.search(line))), None)
    if not errors or stated is None:
        return
    seconds = int(stated[1]) * 3600 + int(stated[2]) * 60 + float(stated[3])
    with DecodedFile(stream).opened() as file:
        decoded = file.frames / file.samplerate
    if decoded < seconds - _DURATION_SLACK_S:
        raise AudioError(
            f"cut off: {decoded:.2f} of {seconds:.2f} s are there ({errors[-1]})",
            where=path,
            hint="copy it again from its source, or remove it from the manifest",
        )


def decode_parts(
    path: Path,
    parts: tuple[tuple[int, int], ...],
    fixes: tuple[tuple[int, bytes], ...] = (),
    rate: int | None = None,
) -> DecodedFile:
    """Decode complete files that were joined, one after the other.

    Args:
        rate: in Hz; None keeps that of the first.
        parts: first byte and end of each.
        fixes: offsets and bytes that replace those of the file.

    Raises:
        soundfile.LibsndfileError: libsndfile cannot read one of them, and `ffmpeg` is not there.
        AudioError: neither can.
    """
    stream = tempfile.TemporaryFile()  # noqa: SIM115 - stays open while the file is in use
    try:
        with path.open("rb") as source:
            opened = (_opened_part(path, source, part, fixes) for part in parts)
            _write_parts(opened, stream, rate)
    except BaseException:
        stream.close()
        raise
    return DecodedFile(stream)


@contextmanager
def _opened_part(
    path: Path, source: IO[bytes], part: tuple[int, int], fixes: tuple[tuple[int, bytes], ...]
) -> Iterator[Any]:
    """A part as libsndfile reads it, else as `ffmpeg` does."""
    with tempfile.TemporaryFile() as copy:
        _copy_range(source, *part, copy)
        for offset, content in fixes:
            if part[0] <= offset < part[1]:
                copy.seek(offset - part[0])
                copy.write(content)
        copy.flush()
        copy.seek(0)
        try:
            file = sf.SoundFile(copy)
        except sf.LibsndfileError:
            if _program() != "ffmpeg":
                raise
            copy.seek(0)
            descriptor = copy.fileno()
            decoded, _ = _run_ffmpeg(path, f"/dev/fd/{descriptor}", descriptor, downmix=False)
            with decoded, sf.SoundFile(decoded) as file:
                yield file
            return
        with file:
            yield file


def _copy_range(source: IO[bytes], start: int, end: int, target: IO[bytes]) -> None:
    source.seek(start)
    left = end - start
    while left > 0 and (block := source.read(min(left, _BLOCK_BYTES))):
        target.write(block)
        left -= len(block)


def _write_parts(
    parts: Iterable[AbstractContextManager[Any]], stream: IO[bytes], rate: int | None
) -> None:
    """Write open files one after the other, with the channels of the first."""
    target: sf.SoundFile | None = None
    try:
        for part in parts:
            with part as file:
                if target is None:
                    target = sf.SoundFile(
                        stream,
                        "w",
                        rate or file.samplerate,
                        file.channels,
                        "FLOAT",
                        format="RF64",
                    )
                for block in _blocks(file, target.samplerate):
                    if block.shape[1] != target.channels:
                        block = block.mean(axis=1, keepdims=True).repeat(target.channels, axis=1)
                    target.write(block)
    finally:
        if target is not None:
            target.close()


def _blocks(file: Any, rate: int) -> Iterator[Any]:
    """The frames of an open file at a rate, float32 [frames, channels]."""
    resampler = soxr.ResampleStream(file.samplerate, rate, file.channels, quality="HQ")
    while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
        yield block if file.samplerate == rate else resampler.resample_chunk(block)
    if file.samplerate != rate:
        yield resampler.resample_chunk(block, last=True)

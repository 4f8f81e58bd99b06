"""Read recordings as mono float32 at 16 kHz, the input of Moonshine; write WAV and FLAC.

soundfile reads WAV, FLAC, OGG and MP3, and soxr resamples. What libsndfile cannot read (M4A, AAC,
WMA, and some codecs in WAV and OGG) is decoded by `ffmpeg`, or on macOS by `afconvert`, where one
is on the PATH.
"""

import io
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

from moonshine_tune.audio.container import LENGTH_SLACK_S, Extent, cut_off, extent_of
from moonshine_tune.audio.decoder import (
    DECODED_FILES,
    DecodedFile,
    DecoderMissingError,
    decode_foreign,
    decode_parts,
    has_decoder,
)
from moonshine_tune.audio.mixing import PLAIN, Mix, choose_mix
from moonshine_tune.audio.remarks import READING_REMARKS, Remark
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.core.errors import AudioError
from moonshine_tune.core.files import write_bytes_atomic
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import Utterance

__all__ = [
    "AUDIO_ENDINGS", "AudioInfo", "DecoderMissingError", "audio_info", "change_tempo", "load_audio",
    "load_utterance", "write_audio",
]  # fmt: skip

AUDIO_ENDINGS = frozenset(
    (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".mp4", ".aiff", ".aif",
     ".au", ".caf", ".wma", ".webm", ".amr", ".3gp")
)  # fmt: skip

_BLOCK_SAMPLES = 1 << 22
_MP3_LEAD_IN = 16 * 1152
_UNKNOWN_FRAMES = 1 << 60  # libsndfile's length of an unfinished FLAC stream
# Rates that a recorder may have. Resampling from 1 Hz would fill the memory.
_LOWEST_RATE_HZ, _HIGHEST_RATE_HZ = 1_000, 1_536_000
# Manifests round times.
_SPAN_SLACK_S = 0.15
_LONG_MP3_S = 600.0
_MAX_MIXES = 100_000
_FLOATS = ("FLOAT", "DOUBLE")
# Channels by name, as recordings of calls have them.
_SIDES = frozenset(("a", "b", "l", "r", "left", "right"))


@dataclass(frozen=True)
class AudioInfo:
    """Length and format of a recording.

    Attributes:
        is_examined: its content holds no further remark.
        remarks: what is decided when it is read, such as a channel that is left out.
    """

    seconds: float
    sample_rate_hz: int
    channels: int
    format: str
    is_examined: bool = True
    remarks: tuple[Remark, ...] = ()


def audio_info(path: Path, *, examine: bool = False) -> AudioInfo:
    """Length and format of a recording, from its header.

    Only foreign formats, and files of several joined recordings, are decoded for it: once, for
    every later use.

    Args:
        examine: also look at a few places of it, for remarks about its channels and its scale.

    Raises:
        AudioError: missing, empty, cut off or unreadable.
    """
    with _opened(path, downmix=False) as (file, opening):
        is_examined = examine or opening.is_foreign
        is_downmixed = opening.is_foreign and file.channels > 2
        mix = _mix_of(path, file, None) if is_examined and not is_downmixed else PLAIN
        return AudioInfo(
            opening.frames_of(file) / file.samplerate,
            file.samplerate,
            file.channels,
            path.suffix[1:].upper() if opening.is_foreign else f"{file.format} {file.subtype}",
            is_examined or (file.channels == 1 and file.subtype not in _FLOATS),
            opening.remarks + mix.remarks,
        )


def load_audio(
    path: Path,
    *,
    start: float | None = None,
    end: float | None = None,
    channel: int | None = None,
) -> Samples:
    """Samples of a recording, or of a span of it; only the span is decoded.

    Samples beyond ±1 of float files stay as they are: cut peaks would add distortion that was not
    recorded. Integers stored as floats are brought to ±1.

    Args:
        start, end: the span in seconds.
        channel: the one to read, from 1; None averages all channels, except dead ones, and reads
            the loudest alone where they cancel each other.

    Returns:
        float32 [samples], mono, 16 kHz.

    Raises:
        AudioError: missing, empty, cut off, unreadable or not finite; a span outside the
            recording; or no such channel.
    """
    is_span = bool(start) or end is not None
    with _opened(path, downmix=channel is None, is_span=is_span) as (file, opening):
        rate, num_frames = file.samplerate, opening.frames_of(file)
        _check_span(start or 0.0, end, num_frames / rate, path)
        if channel is not None and channel > file.channels:
            raise AudioError(
                f"there is no channel {channel}: the recording has {file.channels}",
                where=path,
                hint="choose another channel with --channel",
            )
        first = round((start or 0.0) * rate)
        last = num_frames if end is None else min(round(end * rate), num_frames)
        is_all = first == 0 and last == num_frames
        mix = PLAIN if is_all else _mix_of(path, file, None)
        # An MP3 frame uses bits of the frames before it and is silent without them.
        lead_in = min(first, _MP3_LEAD_IN) if file.format == "MP3" else 0
        if file.tell() != first - lead_in:
            file.seek(first - lead_in)
        frames = _read_frames(file, last - first + lead_in, path)[lead_in:]
        if is_all:
            mix = _mix_of(path, file, frames)
    mono = mix.mono(frames, channel)
    decided = [remark for remark in mix.remarks if channel is None or remark.kind != "channels"]
    READING_REMARKS.add(path, (*opening.remarks, *decided))
    if rate != SAMPLE_RATE_HZ and len(mono):
        mono = soxr.resample(mono, rate, SAMPLE_RATE_HZ, quality="HQ")
    return _checked(mono, path)


def load_utterance(utterance: Utterance) -> Samples:
    """Samples of an utterance.

    Raises:
        AudioError: as `load_audio`, naming the utterance; or its line names a channel of a
            recording with several, which only an import cuts out.
    """
    try:
        _check_channel(utterance)
        return load_audio(utterance.audio, start=utterance.start, end=utterance.end)
    except AudioError as error:
        raise AudioError(
            f"utterance {utterance.id}: {error.message}", where=utterance.audio, hint=error.hint
        ) from error


def _check_channel(utterance: Utterance) -> None:
    """Refuse the mean of all channels where the manifest says which one is meant."""
    named = str(utterance.extra.get("channel", "")).strip().lower()
    if not named.isdecimal() and named not in _SIDES:
        return
    count = audio_info(utterance.audio).channels
    if count > 1:
        raise AudioError(
            f'its line has "channel": {named}, the recording has {count} channels, and a manifest '
            "cannot choose one",
            where=utterance.audio,
            hint="cut the channels out: moonshine-tune data import MANIFEST --out NEW.jsonl "
            "--audio-out FOLDER",
        )


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


def _file_key(path: Path) -> tuple[Path, int, int]:
    """The recording's path, size and time of change, which identify its content."""
    try:
        status = path.stat()
    except PermissionError as error:
        raise _cannot_open(path, error) from error
    except (OSError, ValueError) as error:
        raise AudioError(
            "no such recording", where=path, hint="check the path in the manifest"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise AudioError(
            f"{kind}, not a recording", where=path, hint="check the path in the manifest"
        )
    if status.st_size == 0:
        raise AudioError("the file is empty", where=path, hint="remove it from the manifest")
    return path, status.st_size, status.st_mtime_ns


def _check_span(start: float, end: float | None, seconds: float, path: Path) -> None:
    """Refuse a span outside the recording: its text would not match its audio."""
    if (start and start >= seconds) or (end is not None and end > seconds + _SPAN_SLACK_S):
        span = f"starts at {start:g} s" if end is None else f"is {start:g} to {end:g} s"
        raise AudioError(
            f"the span {span}, the recording has {seconds:.2f} s",
            where=path,
            hint="fix start and end in the manifest",
        )


class _Opening(NamedTuple):
    """How a recording was opened.

    Attributes:
        num_parts: recordings that are joined in it.
        is_foreign: decoded by an external program.
        counted_s: its length, where libsndfile only estimates it, or None.
        num_tracks: audio tracks in it, of which the first is read.
    """

    num_parts: int = 1
    is_foreign: bool = False
    counted_s: float | None = None
    num_tracks: int = 1

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """For the user."""
        if self.num_tracks > 1:
            return (Remark("tracks", f"{self.num_tracks} audio tracks, the first is read"),)
        if self.num_parts == 1:
            return ()
        return (Remark("joined", f"{self.num_parts:,} recordings joined in one file, all read"),)

    def frames_of(self, file: Any) -> int:
        """Number of frames of the open file."""
        if self.counted_s is None:
            return int(file.frames)
        return int(min(round(self.counted_s * file.samplerate), file.frames))


@contextmanager
def _opened(
    path: Path, *, downmix: bool = True, is_span: bool = False
) -> Iterator[tuple[Any, _Opening]]:
    """The open file, native or decoded; every failure of soundfile becomes an AudioError.

    Args:
        is_span: only a part of it will be read.
        downmix: more than two channels of a foreign file are mixed as their layout asks.
    """
    try:
        with ExitStack() as stack:
            file, opening = _enter(path, stack, downmix=downmix, is_span=is_span)
            if not _LOWEST_RATE_HZ <= file.samplerate <= _HIGHEST_RATE_HZ:
                raise AudioError(
                    f"its header states a sample rate of {file.samplerate:,} Hz",
                    where=path,
                    hint="play it; if it does not play, it is damaged: remove it",
                )
            yield file, opening
    except sf.LibsndfileError as error:
        raise _unreadable(path, error) from error
    except TypeError as error:
        # soundfile reads names such as clip.raw as samples without a header.
        raise AudioError(
            f"a {path.suffix} file does not store its sample rate",
            where=path,
            hint="convert it to WAV or FLAC",
        ) from error
    except OSError as error:
        raise _cannot_open(path, error) from error


def _enter(path: Path, stack: ExitStack, *, downmix: bool, is_span: bool) -> tuple[Any, _Opening]:
    """Open a recording with the first decoder that reads all of it."""
    key = _file_key(path)
    extent = extent_of(*key)
    if extent.is_foreign and extent.is_plain:
        decoded = _decoded_foreign(path, downmix=downmix)
        return stack.enter_context(decoded.opened()), _Opening(
            is_foreign=True, num_tracks=decoded.num_tracks
        )
    try:
        if not extent.is_plain:
            joined = DECODED_FILES.get(key, lambda: decode_parts(path, extent.parts, extent.fixes))
            return stack.enter_context(joined.opened()), _Opening(
                len(extent.parts), is_foreign=True
            )
        file = stack.enter_context(sf.SoundFile(str(path)))
        reason = _early_end(file, extent)
        if not reason:
            is_long = is_span and extent.is_mp3 and file.frames > _LONG_MP3_S * file.samplerate
            if not is_long or DECODED_FILES.was_given_up(key):
                return file, _Opening(counted_s=extent.seconds)
            # libsndfile visits all frames before a span, in each opening.
            decoded = DECODED_FILES.get(
                key, lambda: decode_parts(path, extent.parts, rate=SAMPLE_RATE_HZ)
            )
            return stack.enter_context(decoded.opened()), _Opening()
    except sf.LibsndfileError as error:
        if not _is_container(path) or (len(extent.parts) > 1 and has_decoder()):
            raise
        reason = error.error_string.rstrip(".")
    stack.close()
    if not has_decoder() or len(extent.parts) > 1:
        raise DecoderMissingError(
            f"reading it needs ffmpeg, which is not installed (libsndfile: {reason})",
            where=path,
            hint="install it (brew install ffmpeg, or apt install ffmpeg), or convert to WAV",
        )
    decoded = _decoded_foreign(path, downmix=downmix)
    return stack.enter_context(decoded.opened()), _Opening(is_foreign=True)


def _early_end(file: Any, extent: Extent) -> str:
    """Why libsndfile would not read all of a file; empty if it does."""
    if file.frames >= _UNKNOWN_FRAMES:
        return "its header has no length"
    seconds = file.frames / file.samplerate
    if extent.seconds is not None and seconds < extent.seconds - LENGTH_SLACK_S:
        return f"it reads {seconds:.2f} of {extent.seconds:.2f} s"
    return ""


def _decoded_foreign(path: Path, *, downmix: bool) -> DecodedFile:
    """A recording decoded by an external program: all channels, or one for more than two."""
    key = _file_key(path)
    decoded = DECODED_FILES.get(key, lambda: decode_foreign(path, downmix=False))
    if not downmix:
        return decoded
    with decoded.opened() as file:
        if file.channels <= 2:
            return decoded
    return DECODED_FILES.get((*key, "mono"), lambda: decode_foreign(path, downmix=True))


def _unreadable(path: Path, error: sf.LibsndfileError) -> AudioError:
    reason = error.error_string.rstrip(".")
    if "File does not exist" in reason:  # libsndfile's error for an MP3 without a frame
        reason = "no audio in it"
    return AudioError(
        f"cannot be read as audio ({reason})",
        where=path,
        hint="play it; if it does not play, it is damaged: remove it from the manifest",
    )


# Decisions about recordings, by path, size and time.
_mixes: dict[tuple[Path, int, int, int], Mix] = {}


def _mix_of(path: Path, file: Any, frames: Samples | None) -> Mix:
    """How a recording becomes mono; decided once.

    Args:
        frames: all of its frames, where they were read; else some of them are read now.
    """
    is_float = file.subtype in _FLOATS
    if file.channels == 1 and not is_float:
        return PLAIN
    key = (*_file_key(path), file.channels)
    mix = _mixes.get(key)
    if mix is None:

        def read(start: int, count: int) -> Samples:
            if frames is not None:
                return frames[start : start + count]
            file.seek(start)
            return np.asarray(file.read(count, dtype="float32", always_2d=True))

        num_frames = file.frames if frames is None else len(frames)
        try:
            mix = choose_mix(read, num_frames, file.channels, is_float=is_float)
        except AudioError as error:
            hint = (error.hint or "").replace("OLD", quoted(path))
            raise AudioError(error.message, where=path, hint=hint) from error
        if len(_mixes) < _MAX_MIXES:
            _mixes[key] = mix
    return mix


def _cannot_open(path: Path, error: OSError) -> AudioError:
    reason = error.strerror or error
    return AudioError(f"cannot be opened ({reason})", where=path, hint="check its permissions")


def _read_frames(file: Any, count: int, path: Path) -> Samples:
    """`count` frames from the current position, float32 [frames, channels].

    Read in blocks: a damaged header may state more frames than memory holds.
    """
    blocks = [np.zeros((0, file.channels), dtype=np.float32)]
    left = count
    while left > 0:
        size = min(left, max(_BLOCK_SAMPLES // file.channels, 1))
        block = file.read(size, dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(block)
        left -= len(block)
    if left > LENGTH_SLACK_S * file.samplerate:
        raise cut_off(path, f"{left / file.samplerate:.2f} s are missing at its end")
    return blocks[1] if len(blocks) == 2 else np.concatenate(blocks)


def _checked(samples: npt.NDArray[np.floating], path: Path) -> Samples:
    if not len(samples):
        raise AudioError("no samples", where=path, hint="remove it from the manifest")
    if not np.isfinite(samples).all():
        raise AudioError("some samples are not numbers", where=path, hint="record it again")
    return np.ascontiguousarray(samples, dtype=np.float32)


def _is_container(path: Path) -> bool:
    """Whether a file that libsndfile cannot read may be audio: it is not empty, and no text."""
    with path.open("rb") as file:
        return b"\0" in file.read(512)

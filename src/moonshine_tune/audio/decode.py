"""Any recording as mono float32 at 16 kHz: what Moonshine hears.

soundfile reads WAV, FLAC, OGG and MP3, soxr resamples. What libsndfile cannot read (M4A, AAC, WMA)
goes through `ffmpeg`, or on macOS through `afconvert`, where one is on the PATH.
"""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

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
        AudioError: missing, empty or unreadable.
    """
    _check_is_file(path)
    try:
        info = sf.info(str(path))
    except sf.LibsndfileError as error:
        samples = _foreign(path, error)
        return AudioInfo(len(samples) / SAMPLE_RATE_HZ, SAMPLE_RATE_HZ, 1, path.suffix[1:].upper())
    return AudioInfo(info.duration, info.samplerate, info.channels, f"{info.format} {info.subtype}")


def load_audio(path: Path, *, start: float | None = None, end: float | None = None) -> Samples:
    """Samples of a recording, or of a span of it in seconds; only the span is decoded.

    Channels are averaged. Samples beyond ±1 of float files stay as they are: the models
    normalize loudness themselves, and clipping would add distortion.

    Raises:
        AudioError: missing, empty, unreadable, not finite, or the span lies outside.
    """
    _check_is_file(path)
    try:
        with sf.SoundFile(str(path)) as file:
            rate = file.samplerate
            first = round((start or 0.0) * rate)
            if first and first >= file.frames:
                raise AudioError(
                    f"the span begins at {start:g} s, the recording has {file.frames / rate:.2f} s",
                    where=path,
                )
            file.seek(first)
            count = -1 if end is None else max(round(end * rate) - first, 0)
            frames = file.read(count, dtype="float32", always_2d=True)
    except sf.LibsndfileError as error:
        samples = _foreign(path, error)
        first = round((start or 0.0) * SAMPLE_RATE_HZ)
        last = None if end is None else round(end * SAMPLE_RATE_HZ)
        return _checked(samples[first:last], path)
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
    import io

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


def _checked(samples: npt.NDArray[np.floating], path: Path) -> Samples:
    if not len(samples):
        raise AudioError("no samples", where=path, hint="remove it from the manifest")
    if not np.isfinite(samples).all():
        raise AudioError("holds samples that are not numbers", where=path, hint="record it again")
    return np.ascontiguousarray(samples, dtype=np.float32)


def _foreign(path: Path, error: Exception) -> Samples:
    """Decode by an external program what libsndfile does not read."""
    if path.suffix.lower() not in _FOREIGN:
        raise AudioError(
            f"cannot be read as audio ({str(error).rstrip('.').rpartition(': ')[2]})",
            where=path,
            hint="play it once; if it does not play, it is damaged: remove it from the manifest",
        ) from error
    program = next((name for name in ("ffmpeg", "afconvert") if shutil.which(name)), None)
    if program is None:
        raise AudioError(
            f"reading {path.suffix} needs the decoder ffmpeg, which is not installed",
            where=path,
            hint="install it (brew install ffmpeg, or apt install ffmpeg), or convert to WAV",
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "decoded.wav"
        command = (
            [program, "-nostdin", "-v", "error", "-i", str(path), "-ac", "1",
             "-ar", str(SAMPLE_RATE_HZ), "-c:a", "pcm_f32le", str(target)]
            if program == "ffmpeg"
            else [program, "-f", "WAVE", "-d", f"LEI16@{SAMPLE_RATE_HZ}", "-c", "1",
                  str(path), str(target)]
        )  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_DECODER_TIMEOUT_S
        )
        if done.returncode != 0 or not target.is_file():
            reason = done.stderr.strip().splitlines()
            raise AudioError(
                f"{program} cannot decode it: {reason[-1] if reason else 'no reason given'}",
                where=path,
                hint="play it once; if it does not play, it is damaged: remove it",
            ) from error
        samples, _rate = sf.read(str(target), dtype="float32")
    return np.asarray(samples, dtype=np.float32)

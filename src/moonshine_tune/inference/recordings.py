"""Transcripts of recordings that fit into one pass of the model, from files or from memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moonshine_tune.audio.io import audio_info, load_audio
from moonshine_tune.audio.remarks import READING_REMARKS
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.core.errors import AudioError, ProblemsError
from moonshine_tune.core.progress import Progress
from moonshine_tune.inference.batching import batches_by_length
from moonshine_tune.inference.transcribe import Transcriber

MAX_RECORDING_S = 30.0


@dataclass(frozen=True)
class Transcript:
    """The text of a recording, and its duration in seconds."""

    text: str
    seconds: float


def transcribe_recordings(
    transcriber: Transcriber, recordings: Sequence[Path | Samples], progress: Progress
) -> list[Transcript]:
    """Transcribe recordings of up to 30 s each, in batches of similar length.

    Args:
        recordings: audio files, or mono samples at 16 kHz, [samples] of any float format.

    Raises:
        ProblemsError: recordings that cannot be read or are too long; all are listed.
    """
    problems = []
    seconds = []
    for number, recording in enumerate(recordings):
        name = str(recording) if isinstance(recording, Path) else f"recording {number}"
        try:
            seconds.append(_seconds(recording))
            if not 0 < seconds[-1] <= MAX_RECORDING_S:
                problems.append(f"{name}: {seconds[-1]:.1f} s; 0 to {MAX_RECORDING_S:g} s allowed")
        except AudioError as error:
            problems.append(str(error) if error.where else f"{name}: {error}")
    if problems:
        raise ProblemsError(
            f"{len(problems)} of {len(recordings)} recordings cannot be transcribed", problems
        )
    texts = [""] * len(recordings)
    with progress.stage("transcribing", len(recordings)) as stage:
        for group in batches_by_length(seconds, transcriber.batch_s, padded=False):
            clips = [_samples(recordings[index]) for index in group]
            for index, text in zip(group, transcriber.transcribe(clips), strict=True):
                texts[index] = text
            stage.advance(len(group))
    for remark in READING_REMARKS.take():
        progress.say(remark)
    return [Transcript(text, length) for text, length in zip(texts, seconds, strict=True)]


def _seconds(recording: Path | Samples) -> float:
    if isinstance(recording, Path):
        return audio_info(recording).seconds
    if recording.ndim != 1 or not np.isfinite(recording).all():
        raise AudioError("samples must be one channel of finite numbers at 16 kHz")
    return len(recording) / SAMPLE_RATE_HZ


def _samples(recording: Path | Samples) -> Samples:
    if isinstance(recording, Path):
        return load_audio(recording)
    return recording.astype(np.float32)

"""Transcribing manifests with either back end, batch by batch: memory holds one batch of audio."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.inference.greedy import Samples, batches_by_length
from moonshine_tune.core.errors import AudioError, ProblemsError
from moonshine_tune.inference.dataset import utterance_seconds
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.core.progress import Progress


class Transcriber(Protocol):
    """What both back ends offer."""

    @property
    def backend(self) -> str:
        """`torch` or `runtime`."""
        ...

    @property
    def batch_s(self) -> float:
        """Seconds of audio that are best handed over at a time."""
        ...

    def transcribe(self, clips: Sequence[Samples]) -> list[str]:
        """One text a clip; clips are mono float32 at 16 kHz."""
        ...


@dataclass(frozen=True)
class Transcripts:
    """Texts in the order of the utterances, and the seconds of audio heard."""

    texts: tuple[str, ...]
    audio_seconds: float


def transcribe_utterances(
    transcriber: Transcriber,
    utterances: Sequence[Utterance],
    progress: Progress,
    name: str,
    *,
    change: Callable[[Utterance, Samples], Samples] | None = None,
) -> Transcripts:
    """Transcribe all of them: what is scored is exactly what the manifest lists.

    Args:
        change: what is done to each clip before it is heard.

    Raises:
        ProblemsError: recordings that cannot be read; all are listed.
    """
    seconds, problems = _lengths(utterances)
    texts = [""] * len(utterances)
    with progress.stage(name, len(utterances)) as stage:
        for group in batches_by_length(seconds, transcriber.batch_s, padded=False):
            clips: list[Samples] = []
            rows: list[int] = []
            for index in group:
                try:
                    clip = load_utterance(utterances[index])
                    clips.append(change(utterances[index], clip) if change else clip)
                    rows.append(index)
                except AudioError as error:
                    problems.append(str(error))
            if clips and not problems:
                for index, text in zip(rows, transcriber.transcribe(clips), strict=True):
                    texts[index] = text
            stage.advance(len(group))
    if problems:
        raise ProblemsError(
            f"{len(problems)} of {len(utterances)} recordings cannot be read",
            problems,
            hint="mend or remove these lines; look closer with: moonshine-tune data check",
        )
    return Transcripts(tuple(texts), sum(seconds))


def _lengths(utterances: Sequence[Utterance]) -> tuple[list[float], list[str]]:
    seconds, problems = [], []
    for utterance in utterances:
        try:
            seconds.append(max(utterance_seconds(utterance), 0.0))
        except AudioError as error:
            seconds.append(0.0)
            problems.append(str(error))
    return seconds, problems

"""Transcribe utterances with either back end, with one batch of audio in memory at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.audio.remarks import READING_REMARKS
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.core.errors import AudioError, ProblemsError
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.inference.batching import batches_by_length, encode_clips, fit_clip
from moonshine_tune.inference.dataset import utterance_seconds
from moonshine_tune.inference.decoder_session import bytes_per_frame
from moonshine_tune.inference.drafts import DraftStore, greedy_tokens_by_drafts
from moonshine_tune.inference.greedy import greedy_tokens
from moonshine_tune.inference.timed_text import TimedText, timed_texts
from moonshine_tune.models.base import DecodeLimits, EncoderStates, SpeechModel

# Audio that is decoded together. A token reads all weights of the decoder, for one clip as for
# fifty, so small models take more audio, until their keys and values take this much memory.
_DECODE_S = 240.0
_DECODE_BYTES = 256_000_000


class Transcriber(Protocol):
    """What both back ends offer."""

    @property
    def backend(self) -> str:
        """`torch` or `runtime`."""
        ...

    @property
    def batch_s(self) -> float:
        """Seconds of audio that are best passed at a time."""
        ...

    def transcribe(self, clips: Sequence[Samples]) -> list[str]:
        """One text per clip; clips are mono float32 at 16 kHz."""
        ...


class TorchTranscriber:
    """A model in memory, with the interface of the runtime's transcriber.

    Args:
        drafts: transcripts of other models, where the same clips are transcribed by several.
    """

    backend = "torch"

    def __init__(
        self, model: SpeechModel, limits: DecodeLimits, drafts: DraftStore | None = None
    ) -> None:
        self._model, self._limits, self._drafts = model, limits, drafts

    @property
    def batch_s(self) -> float:
        """Seconds of audio that are best passed at a time."""
        frame_s = self._model.samples_per_frame / SAMPLE_RATE_HZ
        return max(_DECODE_S, _DECODE_BYTES / bytes_per_frame(self._model) * frame_s)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self._model.device

    def transcribe(self, clips: Sequence[Samples]) -> list[str]:
        """Greedy transcripts of clips, mono float32 at 16 kHz, decoded together."""
        _, tokens = self._decode([fit_clip(self._model, clip) for clip in clips])
        return [self._model.tokenizer.decode(ids) for ids in tokens]

    def transcribe_timed(self, clips: Sequence[Samples]) -> list[TimedText]:
        """The same, with the time and the confidence of each word; takes one more pass."""
        fitted = [fit_clip(self._model, clip) for clip in clips]
        states, tokens = self._decode(fitted)
        return timed_texts(self._model, fitted, states, tokens)

    @torch.inference_mode()
    def _decode(self, clips: Sequence[Samples]) -> tuple[EncoderStates, list[list[int]]]:
        states = encode_clips(self._model, clips)
        limits = [self._limits.tokens(len(clip) / SAMPLE_RATE_HZ) for clip in clips]
        if self._drafts is None:
            return states, greedy_tokens(self._model, states, limits)
        drafts = self._drafts.of(clips)
        tokens = greedy_tokens_by_drafts(self._model, states, limits, drafts)
        self._drafts.keep(clips, tokens)
        return states, tokens


@dataclass(frozen=True)
class Transcripts:
    """Texts in the order of the utterances, and the seconds of audio of each."""

    texts: tuple[str, ...]
    seconds: tuple[float, ...]

    @property
    def audio_seconds(self) -> float:
        """The seconds of all."""
        return sum(self.seconds)


def transcribe_utterances(
    transcriber: Transcriber,
    utterances: Sequence[Utterance],
    progress: Progress,
    name: str,
    *,
    change: Callable[[Utterance, Samples], Samples] | None = None,
) -> Transcripts:
    """Transcribe every utterance, in order; none is left out.

    Args:
        change: applied to each clip before it is transcribed.

    Raises:
        ProblemsError: recordings that cannot be read; all are listed.
    """
    seconds: list[float] = []
    problems: list[str] = []
    for utterance in utterances:
        try:
            seconds.append(max(utterance_seconds(utterance), 0.0))
        except AudioError as error:
            seconds.append(0.0)
            problems.append(str(error))
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
    for remark in READING_REMARKS.take():
        progress.say(remark)
    if problems:
        raise ProblemsError(
            f"{len(problems)} of {len(utterances)} recordings cannot be read",
            problems,
            hint="fix or remove these lines; find out more with: moonshine-tune data check",
        )
    return Transcripts(tuple(texts), tuple(seconds))

"""Transcripts with the time and the confidence of each word."""

from collections.abc import Sequence
from dataclasses import dataclass

from moonshine_tune.audio.samples import Samples
from moonshine_tune.inference.confidence import share_read, word_confidence
from moonshine_tune.inference.token_evidence import TokenEvidence, token_evidence
from moonshine_tune.inference.word_times import word_spans, words_of
from moonshine_tune.models.base import EncoderStates, SpeechModel


@dataclass(frozen=True)
class TimedWord:
    """A word as it is written, with punctuation; seconds from the start of its clip or recording.

    Attributes:
        confidence: probability that it is right, 0 to 1.
    """

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class TimedText:
    """The transcript of a clip; without words where they were not asked for."""

    text: str
    words: tuple[TimedWord, ...] = ()

    @property
    def confidence(self) -> float | None:
        """Share of its words that are expected to be right; None without words."""
        if not self.words:
            return None
        return sum(word.confidence for word in self.words) / len(self.words)


def timed_texts(
    model: SpeechModel,
    clips: Sequence[Samples],
    states: EncoderStates,
    tokens: Sequence[Sequence[int]],
) -> list[TimedText]:
    """Times and confidence of transcripts that are decoded already.

    Args:
        clips: mono 16 kHz, as they were encoded.
        tokens: decoded token ids of each clip.
    """
    evidence = token_evidence(model, states, tokens)
    return [
        _timed_text(model, clip, ids, item)
        for clip, ids, item in zip(clips, tokens, evidence, strict=True)
    ]


def _timed_text(
    model: SpeechModel, clip: Samples, ids: Sequence[int], evidence: TokenEvidence
) -> TimedText:
    text = model.tokenizer.decode(ids)
    words = words_of(model.tokenizer, ids)
    if not words:
        return TimedText(text)
    spans = word_spans(model, clip, evidence.attention, words)
    clip_log_prob = float(evidence.log_probs.mean())
    read = share_read(evidence.attention, [n for word in words for n in word.spoken])
    return TimedText(
        text,
        tuple(
            TimedWord(
                word.text,
                start,
                end,
                read
                * word_confidence(
                    [float(evidence.log_probs[n]) for n in word.spoken], clip_log_prob
                ),
            )
            for word, (start, end) in zip(words, spans, strict=True)
        ),
    )

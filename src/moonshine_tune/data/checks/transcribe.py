"""Transcribe a corpus with the base model, and compare its confidence with the transcripts."""

import math

from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.data.checks.checked_manifest import ModelTranscript
from moonshine_tune.data.checks.text import character_distance
from moonshine_tune.inference.dataset import SpeechDataset
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.inference.scored_set import transcribe_source
from moonshine_tune.inference.token_losses import mean_token_losses
from moonshine_tune.registry.open import OpenedModel

# Encoder states of a clip are used three times; 400 MB hold two hours of Moonshine tiny.
_STORED_MB = 400


def transcribe_corpus(
    corpus: SpeechDataset, opened: OpenedModel, normalizer: Normalizer, progress: Progress
) -> tuple[ModelTranscript, ...]:
    """Transcribe every utterance, and score its transcript and the reference with the model."""
    source = StateSource(opened.model, corpus, budget_mb=_STORED_MB)
    source.prepare(range(len(corpus)), progress, "encoding")
    texts = transcribe_source(opened.model, source, opened.limits, progress, "transcribing")
    encoded = [opened.model.tokenizer.encode(text) for text in texts]
    own_losses = mean_token_losses(opened.model, source, encoded, progress, "scoring hypotheses")
    losses = mean_token_losses(opened.model, source, corpus.tokens, progress, "scoring references")
    return tuple(
        ModelTranscript(
            id=utterance.id,
            reference=utterance.reference,
            text=text,
            confidence=round(math.exp(-own_loss), 4),
            reference_loss=round(loss, 4),
            distance=round(
                character_distance(normalizer(utterance.reference), normalizer(text)), 4
            ),
        )
        for utterance, text, own_loss, loss in zip(
            corpus.utterances, texts, own_losses, losses, strict=True
        )
    )

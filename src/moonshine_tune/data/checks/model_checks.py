"""What the base model hears in each utterance, and which transcripts that speaks against.

A transcript is doubtful where the model is sure of what it hears, that is something else, and the
transcript is far less likely to it than the transcripts of this corpus are as a rule. The last
condition keeps jargon and accents out: where everything is hard, nothing stands out by being hard.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.data.checks.detectors import See, shortened, spoken_length
from moonshine_tune.inference.dataset import SpeechDataset
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.inference.scored_set import transcribe_source
from moonshine_tune.inference.token_losses import mean_token_losses
from moonshine_tune.registry.open import OpenedModel

# States of a clip are used three times: 400 MB hold two hours of tiny's.
_STORED_MB = 400
# Below this many utterances there is no "as a rule".
_FEWEST = 20
# Beyond so many robust standard deviations, and at least so many nats a token.
_DEVIATIONS, _LEAST_NATS = 3.5, 1.0
_SURE, _OTHER = 0.4, 0.5
# A text that is so many times longer than what is heard, and by so many characters.
_LONGER, _LONGER_BY = 1.7, 10
_FITS = 0.3


@dataclass(frozen=True)
class ModelTranscript:
    """One utterance as the base model hears it.

    Attributes:
        confidence: geometric mean of the probabilities of its own tokens, 0 to 1.
        reference_loss: nats a token on the transcript.
        distance: character errors between both, normalized, as a share of the transcript.
    """

    id: str
    reference: str
    text: str
    confidence: float
    reference_loss: float
    distance: float


def listen(
    corpus: SpeechDataset, opened: OpenedModel, normalizer: Normalizer, progress: Progress
) -> tuple[ModelTranscript, ...]:
    """Decode every utterance and weigh what is heard against its transcript."""
    source = StateSource(opened.model, corpus.load, corpus.seconds, budget_mb=_STORED_MB)
    source.prepare(range(len(corpus)), progress, "listening: encoding")
    texts = transcribe_source(opened.model, source, opened.limits, progress, "listening: decoding")
    encode = opened.model.tokenizer.encode
    own = mean_token_losses(
        opened, source, [encode(text) for text in texts], progress, "weighing what is heard"
    )
    told = mean_token_losses(opened, source, corpus.tokens, progress, "weighing the transcripts")
    return tuple(
        ModelTranscript(
            id=utterance.id,
            reference=utterance.reference,
            text=text,
            confidence=round(math.exp(-own_loss), 4),
            reference_loss=round(told_loss, 4),
            distance=round(distance(normalizer(utterance.reference), normalizer(text)), 4),
        )
        for utterance, text, own_loss, told_loss in zip(
            corpus.utterances, texts, own, told, strict=True
        )
    )


def distance(reference: str, hypothesis: str) -> float:
    """Character errors as a share of the reference's characters; spaces do not count."""
    one, other = reference.replace(" ", ""), hypothesis.replace(" ", "")
    if not one:
        return float(bool(other))
    return float(jiwer.cer(one, other))


def flag_suspicious_transcripts(
    heard: Sequence[ModelTranscript], normalizer: Normalizer, see: See
) -> None:
    """Transcripts that what is heard speaks against, the worst first."""
    if len(heard) < _FEWEST:
        return
    losses = [one.reference_loss for one in heard]
    middle = statistics.median(losses)
    spread = 1.4826 * statistics.median(abs(loss - middle) for loss in losses)
    bound = middle + max(_DEVIATIONS * spread, _LEAST_NATS)
    doubtful = sorted(
        (one for one in heard if one.reference_loss > bound and one.confidence >= _SURE),
        key=lambda one: -one.reference_loss,
    )
    plain = {one.id: normalizer(one.reference) for one in doubtful}
    for one in doubtful:
        said = normalizer(one.text)
        told, spoken = spoken_length(plain[one.id]), spoken_length(said)
        detail = f"heard {shortened(one.text)!r} with {one.confidence:.0%} confidence"
        other = next(
            (
                name
                for name, text in plain.items()
                if name != one.id and len(said) > 3 and distance(text, said) <= _FITS
            ),
            None,
        )
        if one.distance < _OTHER and not _is_longer(spoken, told):
            continue
        is_part = said.startswith(plain[one.id]) or plain[one.id].startswith(said)
        if other is not None and not is_part:
            see("swapped_text", one.id, f"{detail}: that is the text of {other}")
        elif _is_longer(spoken, told):
            see("words_missing", one.id, detail)
        elif _is_longer(told, spoken):
            see("words_not_said", one.id, detail)
        else:
            see("doubtful_text", one.id, detail)


def _is_longer(one: int, other: int) -> bool:
    return one >= _LONGER * other and one - other >= _LONGER_BY

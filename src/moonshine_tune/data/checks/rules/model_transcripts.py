"""Transcripts that the base model's own transcripts contradict.

A transcript is suspicious if the model is confident of a different one, and the loss of the
transcript is far above what is usual in this corpus. The second condition accepts jargon and
accents: where everything is hard, no utterance stands out by being hard.
"""

import statistics
from collections.abc import Iterator
from functools import lru_cache

from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.data.checks.base import Drop, manifest_check
from moonshine_tune.data.checks.checked_manifest import (
    CheckedManifest,
    ModelEvidence,
    ModelTranscript,
    Occurrence,
)
from moonshine_tune.data.checks.text import character_distance, shortened, spoken_length

FEWEST = 20
"""With fewer utterances nothing is usual."""

# Loss above the median by this many robust standard deviations, and at least by so many nats.
_DEVIATIONS, _LEAST_NATS = 3.5, 1.0
MIN_CONFIDENCE = 0.4
"""A model that is less sure contradicts nothing."""

# Character errors from which two texts are different, and up to which they are the same.
_DIFFERENT, _SAME = 0.5, 0.3
# A text is longer than another by this factor, and by so many characters.
_LONGER, _LONGER_BY = 1.7, 10


@manifest_check("warning", rank=100, fix=Drop(on_request=True), audit_only=True)
def swapped_text(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript does|transcripts do] not match the audio: the base model recognizes the text of
    another utterance.

    Listen to both; exchange their texts, or remove them.
    """
    return _suspected(manifest, "swapped_text")


@manifest_check("warning", rank=110, fix=Drop(on_request=True), audit_only=True)
def doubtful_text(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript is|transcripts are] doubtful: the base model is confident of another text, far
    more than usual in this corpus.

    Listen; fix [the text, or remove the line|the texts, or remove the lines].
    """
    return _suspected(manifest, "doubtful_text")


@manifest_check("warning", rank=120, fix=Drop(on_request=True), audit_only=True)
def words_missing(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript has|transcripts have] far fewer words than the audio.

    Listen; complete the text, or cut the recording.
    """
    return _suspected(manifest, "words_missing")


@manifest_check(
    "warning", rank=130, fix=Drop(on_request=True), audit_only=True, kind="words_not_said"
)
def extra_words(manifest: CheckedManifest) -> Iterator[Occurrence]:
    """[transcript has|transcripts have] far more words than the audio.

    Listen; shorten the text, or look for the rest of the recording.
    """
    return _suspected(manifest, "words_not_said")


def _suspected(manifest: CheckedManifest, kind: str) -> Iterator[Occurrence]:
    suspicions = suspicious_transcripts(manifest.model) if manifest.model else ()
    return (occurrence for suspected, occurrence in suspicions if suspected == kind)


@lru_cache(maxsize=1)
def suspicious_transcripts(model: ModelEvidence) -> tuple[tuple[str, Occurrence], ...]:
    """Kind, and id and detail, of every suspicious transcript, highest loss first."""
    if len(model.transcripts) < FEWEST:
        return ()
    losses = [item.reference_loss for item in model.transcripts]
    median = statistics.median(losses)
    spread = 1.4826 * statistics.median(abs(loss - median) for loss in losses)
    threshold = median + max(_DEVIATIONS * spread, _LEAST_NATS)
    doubtful = sorted(
        (
            item
            for item in model.transcripts
            if item.reference_loss > threshold and item.confidence >= MIN_CONFIDENCE
        ),
        key=lambda item: -item.reference_loss,
    )
    references = {item.id: model.normalizer(item.reference) for item in doubtful}
    suspicions = []
    for item in doubtful:
        kind = contradiction(item, model.normalizer)
        if kind is None:
            continue
        reference, hypothesis = references[item.id], model.normalizer(item.text)
        detail = recognized(item)
        is_part = hypothesis.startswith(reference) or reference.startswith(hypothesis)
        owner = None if is_part else _owner(hypothesis, references, item.id)
        if owner is not None:
            kind, detail = "swapped_text", f"{detail}: the text of {owner}"
        suspicions.append((kind, (item.id, detail)))
    return tuple(suspicions)


def contradiction(item: ModelTranscript, normalizer: Normalizer) -> str | None:
    """How a transcript differs from the model's: the kind of a check; None where they are alike.

    How sure the model is, and whether that is unusual, is for the caller to judge.
    """
    lengths = spoken_length(normalizer(item.reference)), spoken_length(normalizer(item.text))
    if _is_longer(lengths[1], lengths[0]):
        return "words_missing"
    if item.distance < _DIFFERENT:
        return None
    return "words_not_said" if _is_longer(*lengths) else "doubtful_text"


def recognized(item: ModelTranscript) -> str:
    """What the model recognized, for people."""
    return f"recognized {shortened(item.text)!r} with {item.confidence:.0%} confidence"


def _owner(hypothesis: str, references: dict[str, str], own: str) -> str | None:
    """The other utterance with this text."""
    if len(hypothesis) <= 3:
        return None
    for identifier, reference in references.items():
        if identifier != own and character_distance(reference, hypothesis) <= _SAME:
            return identifier
    return None


def _is_longer(length: int, reference: int) -> bool:
    return length >= _LONGER * reference and length - reference >= _LONGER_BY

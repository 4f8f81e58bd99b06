"""Pseudo-labels: what a model writes of clips, and how likely it is that it is right.

The score is a product of three parts, each 0 to 1. Confidence, by its root: how many words the
probabilities of their tokens expect to be right. Agreement: how much of the text stays when the
clip is slower, faster or noisier; a guess changes, and what is read from the sound does not.
Attention: whether it moves on through the clip as the text does, and reaches all that sounds. The
idea of scoring pseudo-labels by confidence and attention together is that of STAR (arXiv
2405.14161).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch

from moonshine_tune.audio.augment import Recipe
from moonshine_tune.audio.measure import measure_clip
from moonshine_tune.audio.noise_bank import ColoredNoise
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.core.errors import AudioError
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.inference.batching import (
    batches_by_length,
    encode_clips,
    fit_clip,
    run_with_oom_backoff,
)
from moonshine_tune.inference.confidence import share_covered, share_read, word_confidence
from moonshine_tune.inference.dataset import SpeechDataset
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.inference.greedy import greedy_tokens
from moonshine_tune.inference.loops import has_loop
from moonshine_tune.inference.result_cache import (
    cached_path,
    read_cached,
    recipe_hash,
    write_cached,
)
from moonshine_tune.inference.scored_set import score_batch_s, transcribe_source
from moonshine_tune.inference.token_evidence import TokenEvidence, token_evidence
from moonshine_tune.inference.word_times import frame_activity, words_of
from moonshine_tune.metrics.wer import score_utterance
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.registry.open import OpenedModel

# Each clip is transcribed once more in each of these forms. Small changes: a good text survives.
_FORMS = (
    Recipe(speed=0.92),
    Recipe(speed=1.08),
    Recipe(noise=ColoredNoise(1.0), snr_db=10.0),
)
# Labels are kept after so many clips: what an interrupted command did is not done again.
_KEPT_TOGETHER = 200
_CODE = (
    "inference/decoder_session.py", "inference/greedy.py", "inference/token_evidence.py",
    "inference/confidence.py", "inference/word_times.py", "inference/loops.py",
    "audio/activity.py", "audio/effects.py", "audio/augment.py", "audio/measure.py",
    "data/pseudo_labels/label.py",
)  # fmt: skip
_DIGITS = 4


@dataclass(frozen=True)
class PseudoLabel:
    """What a model writes of a clip, and the parts of its score, each 0 to 1.

    Attributes:
        confidence: share of its words that are expected to be right.
        agreement: share of its letters that stay in changed forms of the clip.
        attention: how far it is read from the sound in order, times the share of the sound that it
            covers.
    """

    text: str
    confidence: float = 0.0
    agreement: float = 0.0
    attention: float = 0.0

    @property
    def score(self) -> float:
        """Product of the parts, of confidence its root: it doubts spelled words that are right.

        0 for an empty text, one that repeats itself, and one of silence.
        """
        return round(math.sqrt(self.confidence) * self.agreement * self.attention, _DIGITS)

    def to_record(self) -> dict[str, Any]:
        """The score and its parts, as keys of a manifest."""
        parts = asdict(self)
        return {"score": self.score} | {name: parts[name] for name in parts if name != "text"}


def pseudo_labels(
    dataset: SpeechDataset,
    opened: OpenedModel,
    normalizer: Normalizer,
    progress: Progress,
    name: str,
    *,
    adapter_sha256: str = "",
) -> list[PseudoLabel]:
    """The label of each clip, in order; kept in the cache, part by part.

    Args:
        opened: the model that writes them, with its adapter if it has one.
        normalizer: what it leaves out makes no difference between two texts.
        name: of the stage, for the progress.
        adapter_sha256: of the adapter's weights; empty for the base model.
    """
    labels: list[PseudoLabel] = []
    for start in range(0, len(dataset), _KEPT_TOGETHER):
        part = dataset.part(range(start, min(start + _KEPT_TOGETHER, len(dataset))))
        counted = f"{name}, {start + 1:,} to {start + len(part):,} of {len(dataset):,}"
        identity = [
            opened.base["sha256"],
            adapter_sha256,
            str(opened.model.dtype),
            recipe_hash(*_CODE),
            asdict(opened.limits),
            normalizer.name,
            [part.content_key(index) for index in range(len(part))],
        ]
        path = cached_path("pseudo-labels", identity)
        known = read_cached(path, list[dict[str, str | float]], len(part), progress)
        if known is None:
            title = name if len(part) == len(dataset) else counted
            fresh = _labels(part, opened, normalizer, progress, title)
            known = [asdict(label) for label in fresh]
            write_cached(path, known, progress)
        labels += [PseudoLabel(**content) for content in known]  # type: ignore[arg-type]
    return labels


def _labels(
    dataset: SpeechDataset,
    opened: OpenedModel,
    normalizer: Normalizer,
    progress: Progress,
    name: str,
) -> list[PseudoLabel]:
    model = opened.model
    model.module.eval()
    labels = _read_clips(dataset, opened, progress, name)
    # What is worth nothing already needs no second look.
    rows = [row for row, label in enumerate(labels) if label.confidence]
    if not rows:
        return labels
    forms = []
    for number, recipe in enumerate(_FORMS, start=1):
        source = StateSource(model, _ChangedClips(dataset.part(rows), recipe), budget_mb=0)
        title = f"{name}: changed form {number} of {len(_FORMS)}"
        forms.append(transcribe_source(model, source, opened.limits, progress, title))
    for row, texts in zip(rows, zip(*forms, strict=True), strict=True):
        agreement = _agreement(labels[row].text, texts, normalizer)
        labels[row] = replace(labels[row], agreement=agreement)
    return labels


@dataclass(frozen=True)
class _ChangedClips:
    """The clips of a dataset in one changed form."""

    dataset: SpeechDataset
    recipe: Recipe

    @cached_property
    def seconds(self) -> Sequence[float]:
        return tuple(map(self.recipe.seconds, self.dataset.seconds))

    def load(self, index: int) -> Samples:
        return self.recipe.apply(self.dataset.load(index))

    def content_key(self, index: int) -> str:
        return f"{self.dataset.content_key(index)}:{self.recipe.key()}"


def _read_clips(
    dataset: SpeechDataset, opened: OpenedModel, progress: Progress, name: str
) -> list[PseudoLabel]:
    """Texts with confidence and attention, without agreement; none of a clip that is damaged."""
    model = opened.model
    labels = [PseudoLabel("")] * len(dataset)
    damaged: list[str] = []

    @torch.inference_mode()
    def decode(group: Sequence[int]) -> None:
        loaded: dict[int, Samples] = {}
        for index in group:
            try:
                loaded[index] = fit_clip(model, dataset.load(index))
            except AudioError as error:
                damaged.append(str(error))
        if not loaded:
            return
        clips = list(loaded.values())
        states = encode_clips(model, clips)
        limits = [opened.limits.tokens(len(clip) / SAMPLE_RATE_HZ) for clip in clips]
        tokens = greedy_tokens(model, states, limits)
        evidence = token_evidence(model, states, tokens)
        for index, ids, item in zip(loaded, tokens, evidence, strict=True):
            labels[index] = _judged(model, loaded[index], ids, item)

    groups = batches_by_length(dataset.seconds, score_batch_s(skips_encoder=False))
    with progress.stage(name, len(dataset)) as stage:
        run_with_oom_backoff(groups, decode, model.device, stage)
    if damaged:
        progress.say(f"{name}: {len(damaged)} clips cannot be read, such as {damaged[0]}")
    return labels


def _judged(
    model: SpeechModel, clip: Samples, ids: Sequence[int], evidence: TokenEvidence
) -> PseudoLabel:
    text = model.tokenizer.decode(ids).strip()
    words = words_of(model.tokenizer, ids)
    if not words or has_loop(text) or measure_clip(clip, SAMPLE_RATE_HZ).is_silent:
        return PseudoLabel(text)
    clip_log_prob = float(evidence.log_probs.mean())
    probabilities = [
        word_confidence([float(evidence.log_probs[n]) for n in word.spoken], clip_log_prob)
        for word in words
    ]
    spoken = [position for word in words for position in word.spoken]
    sounds = frame_activity(model, clip, evidence.attention.shape[1])
    frame_s = model.samples_per_frame / SAMPLE_RATE_HZ
    covered = share_covered(evidence.attention, spoken, sounds, frame_s)
    return PseudoLabel(
        text,
        confidence=round(sum(probabilities) / len(probabilities), _DIGITS),
        attention=round(share_read(evidence.attention, spoken) * covered, _DIGITS),
    )


def _agreement(text: str, forms: Sequence[str], normalizer: Normalizer) -> float:
    """Mean share of the letters of a text that are right in its changed forms, 0 to 1."""
    if not normalizer(text):
        return 0.0
    rates = [
        score_utterance("", text, changed, normalizer).characters.rate / 100 for changed in forms
    ]
    return round(sum(max(1.0 - rate, 0.0) for rate in rates) / len(rates), _DIGITS)

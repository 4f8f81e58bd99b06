"""A held-out set that is scored again and again during a run.

It is decoded exactly as the deployed runtime decodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from moonshine_tune.audio.fingerprint import known_fingerprints
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.inference.batching import (
    batches_by_length,
    consecutive_groups,
    encode_batch_s,
    joined_states,
    run_with_oom_backoff,
)
from moonshine_tune.inference.drafts import greedy_tokens_by_drafts
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.inference.greedy import greedy_tokens
from moonshine_tune.inference.token_losses import mean_token_losses
from moonshine_tune.metrics.wer import Score, ScoredUtterance, score_utterances, summarize
from moonshine_tune.models.base import DecodeLimits, EncoderStates, SpeechModel

_BATCH_S = 120.0
# With stored states only the decoder runs, and its cost per token hardly grows with the batch.
_STORED_BATCH_S = 400.0


def score_batch_s(*, skips_encoder: bool) -> float:
    """Seconds of audio that are scored together; the memory estimate counts with it too."""
    return _STORED_BATCH_S if skips_encoder else _BATCH_S


@dataclass(frozen=True)
class SetScore:
    """A score and the scored utterances."""

    score: Score
    scored: tuple[ScoredUtterance, ...]


def transcribe_source(
    model: SpeechModel,
    source: StateSource,
    limits: DecodeLimits,
    progress: Progress,
    name: str,
) -> list[str]:
    """Greedy transcripts of every utterance of a source, in order."""
    tokens = decode_source(model, source, limits, progress, name)
    return [model.tokenizer.decode(ids) for ids in tokens]


def decode_source(
    model: SpeechModel,
    source: StateSource,
    limits: DecodeLimits,
    progress: Progress,
    name: str,
    drafts: Sequence[Sequence[int]] = (),
) -> list[list[int]]:
    """Greedy tokens of every utterance of a source, in order.

    Args:
        drafts: earlier tokens of each; they change the time, not the result. Empty without any.
    """
    decoded: list[list[int]] = [[] for _ in range(len(source))]
    groups = batches_by_length(source.seconds, score_batch_s(skips_encoder=source.skips_encoder))

    def decode(group: Sequence[int]) -> None:
        states = _states(model, source, group)
        most = [limits.tokens(source.seconds[i]) for i in group]
        if drafts:
            own = [drafts[index] for index in group]
            tokens = greedy_tokens_by_drafts(model, states, most, own)
        else:
            tokens = greedy_tokens(model, states, most)
        for index, ids in zip(group, tokens, strict=True):
            decoded[index] = ids

    with progress.stage(name, len(source)) as stage:
        run_with_oom_backoff(groups, decode, model.device, stage)
    return decoded


@torch.inference_mode()
def _states(model: SpeechModel, source: StateSource, group: Sequence[int]) -> EncoderStates:
    """States of some clips, without a graph: nothing is kept for a backward pass.

    An encoder that trains encodes a few at a time, as everywhere: more audio at once is no faster.
    """
    if source.skips_encoder:
        return source.batch(group)
    seconds = [source.seconds[index] for index in group]
    parts = consecutive_groups(seconds, encode_batch_s(model.device))
    return joined_states([source.batch([group[row] for row in part]) for part in parts])


class ScoredSet:
    """Utterances with references, and the encoder states to decode.

    Args:
        name: what it is for, such as `dev`.
        set_name: of its manifest, for the title.

    Attributes:
        drafts: tokens of each utterance in the last score; empty before the first one.
    """

    def __init__(
        self,
        name: str,
        utterances: Sequence[Utterance],
        source: StateSource,
        normalizer: Normalizer,
        limits: DecodeLimits,
        *,
        set_name: str = "",
    ) -> None:
        self.name, self._set_name = name, set_name
        self.utterances = tuple(utterances)
        self._without_text = frozenset(item.id for item in utterances if item.text is None)
        self._source = source
        self.normalizer = normalizer
        self._limits = limits
        self.drafts: list[list[int]] = []

    @property
    def title(self) -> str:
        """Which set it is: `librispeech_other, 50 clips`."""
        return f"{self._set_name or self.name}, {len(self.utterances)} clips"

    @cached_property
    def _recordings(self) -> Mapping[str, str]:
        return known_fingerprints(self.utterances)

    @property
    def baseline_hypotheses(self) -> dict[str, str]:
        """References, by id, of the utterances without a text; empty before the first score."""
        return {
            item.id: item.text
            for item in self.utterances
            if item.id in self._without_text and item.text is not None
        }

    def restore_baseline_hypotheses(self, texts: Mapping[str, str]) -> None:
        """Use the hypotheses of an earlier process as references, by id."""
        self.utterances = tuple(
            item.with_text(texts[item.id]) if item.id in texts else item for item in self.utterances
        )

    def restore_drafts(self, drafts: list[list[int]]) -> None:
        """Go on from the last score of an earlier process, where it was of the same utterances.

        Without it scores are the same up to rounding, and a resumed run would round otherwise.
        """
        self.drafts = drafts if len(drafts) == len(self.utterances) else []

    def score(self, model: SpeechModel, progress: Progress) -> SetScore:
        """Decode everything and score it.

        The reference of an utterance without a text is its first hypothesis: that of the base
        model, if the base is scored first.
        """
        self.drafts = decode_source(
            model, self._source, self._limits, progress, f"scoring {self.name}", self.drafts
        )
        hypotheses = [model.tokenizer.decode(ids) for ids in self.drafts]
        self.utterances = tuple(
            utterance if utterance.text is not None else utterance.with_text(text)
            for utterance, text in zip(self.utterances, hypotheses, strict=True)
        )
        scored = score_utterances(
            self.utterances, hypotheses, self.normalizer, recordings=self._recordings
        )
        return SetScore(summarize(scored), scored)

    def word_loss(self, model: SpeechModel, progress: Progress) -> float:
        """Mean cross-entropy per token of the references, without their ends, in nats.

        It moves where the WER of a few clips stands still. Ends are left out: they tell how
        sentences are punctuated, which is learned before a voice is.
        """
        tokens = [model.tokenizer.encode(item.text or "") for item in self.utterances]
        means = mean_token_losses(
            model, self._source, tokens, progress, f"loss of {self.name}", with_end=False
        )
        counts = [len(ids) for ids in tokens]
        total = sum(mean * count for mean, count in zip(means, counts, strict=True))
        return total / max(sum(counts), 1)

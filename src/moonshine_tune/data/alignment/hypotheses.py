"""What the base model writes for the pieces of a recording, and how well words fit a piece."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.data.alignment.borders import Scores, WordRange
from moonshine_tune.inference.batching import run_with_oom_backoff
from moonshine_tune.inference.dataset import build_dataset
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.inference.result_cache import (
    cached_path,
    read_cached,
    recipe_hash,
    write_cached,
)
from moonshine_tune.inference.token_losses import mean_token_losses
from moonshine_tune.inference.transcribe import TorchTranscriber, transcribe_utterances
from moonshine_tune.models.base import EOS_ID, EncoderStates
from moonshine_tune.models.losses import target_batch
from moonshine_tune.registry.open import OpenedModel

# Encoder states of a segment are used for several texts; 400 MB hold two hours of Moonshine tiny.
_STORED_MB = 400
_KEPT_SHARE = 0.75
# A word costs no more: one that nobody speaks must not decide to which side of a border it belongs.
_WORD_NATS = 8.0
# Ranges of words that are scored at once.
_RANGES = 32


def transcribe_spans(
    audio: Path, spans: Sequence[tuple[float, float]], opened: OpenedModel, progress: Progress
) -> list[str]:
    """A hypothesis for each span, cached: an alignment with other options takes seconds.

    Raises:
        ProblemsError: the recording cannot be read.
    """
    identity = [
        opened.base["sha256"],
        str(opened.model.dtype),
        opened.limits.tokens_per_second,
        recipe_hash("inference/greedy.py"),
        sha256_of(audio),
        spans,
    ]
    path = cached_path("piece-hypotheses", identity)
    known = read_cached(path, list[str], len(spans), progress)
    if known is not None:
        progress.say(f"{audio.name}: transcribed before")
        return known
    utterances = [
        Utterance(f"{audio.stem}-{number}", audio, start=start, end=end)
        for number, (start, end) in enumerate(spans)
    ]
    transcriber = TorchTranscriber(opened.model, opened.limits)
    texts = list(
        transcribe_utterances(transcriber, utterances, progress, f"transcribing {audio.name}").texts
    )
    write_cached(path, texts, progress)
    return texts


def text_losses(
    utterances: Sequence[Utterance],
    texts: Sequence[Sequence[str]],
    opened: OpenedModel,
    progress: Progress,
) -> list[list[float]]:
    """The model's mean loss per token on several texts of each utterance, in nats.

    The costliest tokens do not count: a text has wrong words.

    Args:
        texts: one list for each utterance, all of the same length.
    """
    dataset = build_dataset(
        utterances, opened.model, name="doubtful", max_clip_s=1e9, needs_text=False
    )
    source = StateSource(opened.model, dataset, budget_mb=_STORED_MB)
    source.prepare(range(len(dataset)), progress, "encoding doubtful segments")
    columns = []
    longest = opened.model.max_tokens - 2
    for column in zip(*texts, strict=True):
        tokens = [opened.model.tokenizer.encode(text)[:longest] for text in column]
        columns.append(
            mean_token_losses(
                opened.model, source, tokens, progress, "scoring texts", kept_share=_KEPT_SHARE
            )
        )
    return [list(row) for row in zip(*columns, strict=True)]


class WordLikelihoods:
    """How likely the model finds words of a text in pieces of a recording.

    Args:
        spans: start and end of each piece, in seconds.
        words: of the text, as it has them.
    """

    def __init__(
        self,
        audio: Path,
        spans: Sequence[tuple[float, float]],
        words: Sequence[str],
        opened: OpenedModel,
    ) -> None:
        self._audio, self._spans, self._words, self._opened = audio, spans, words, opened

    @cached_property
    def _source(self) -> StateSource:
        """Encoder states of the pieces; made when the first stretch is doubtful."""
        utterances = [
            Utterance(str(number), self._audio, start=start, end=end)
            for number, (start, end) in enumerate(self._spans)
        ]
        model = self._opened.model
        dataset = build_dataset(utterances, model, name="pieces", max_clip_s=1e9, needs_text=False)
        return StateSource(model, dataset, budget_mb=_STORED_MB)

    def __call__(
        self, pieces: Sequence[int], words: Sequence[int], ranges: Sequence[WordRange]
    ) -> list[Scores]:
        """The log likelihoods of `RateRanges`, of pieces and words by their indices."""
        self._source.prepare(pieces, SilentProgress(), "encoding doubtful pieces")
        model = self._opened.model
        tokens = [model.tokenizer.encode(self._words[word]) for word in words]
        results: list[Scores] = [np.zeros(0)] * len(ranges)
        order = sorted(
            range(len(ranges)), key=lambda row: (ranges[row].end - ranges[row].first, row)
        )
        batches = [order[start : start + _RANGES] for start in range(0, len(order), _RANGES)]

        def work(rows: Sequence[int]) -> None:
            states = self._source.batch([pieces[ranges[row].piece] for row in rows])
            texts = [tokens[ranges[row].first : ranges[row].end] for row in rows]
            for row, scores in zip(rows, self._scores(states, texts), strict=True):
                results[row] = scores

        run_with_oom_backoff(batches, work, model.device)
        return results

    @torch.inference_mode()
    def _scores(
        self, states: EncoderStates, texts: Sequence[Sequence[Sequence[int]]]
    ) -> Iterator[Scores]:
        """For each row, the log likelihood of its first words, from none to all."""
        model = self._opened.model
        longest = model.max_tokens - 2
        flat = [[token for word in words for token in word][:longest] for words in texts]
        batch = target_batch(flat, model.device)
        log_probs = model.decoder_logits(states, batch.input_ids).float().log_softmax(-1)
        ends = log_probs[:, :, EOS_ID].cpu().numpy()
        ids = batch.targets.clamp(min=0).to(log_probs.device)
        chosen = log_probs.gather(2, ids[:, :, None])[:, :, 0].cpu().numpy()
        for row, words in enumerate(texts):
            borders = np.cumsum([0, *map(len, words)])
            kept = np.minimum(borders, len(flat[row]))
            totals = np.concatenate([[0.0], np.cumsum(chosen[row, : len(flat[row])])])
            of_words = np.maximum(np.diff(totals[kept]), -_WORD_NATS)
            scores = np.concatenate([[0.0], np.cumsum(of_words)]) + ends[row, kept]
            yield np.where(borders > longest, -np.inf, scores)

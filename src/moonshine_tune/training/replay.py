"""Replay: general speech in every step, on which the frozen base model is the teacher.

For each clip, the base's own greedy text and its final hidden states are kept. The frozen head
turns the states back into the teacher's distribution when it is needed. No transcripts are used,
so any general audio in the right language will do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.sampler import BucketSampler
from moonshine_tune.inference.batching import batches_by_length, run_with_oom_backoff
from moonshine_tune.inference.dataset import SpeechDataset, build_dataset
from moonshine_tune.inference.encoder_cache import EncoderCache, StateSource
from moonshine_tune.inference.greedy import greedy_tokens
from moonshine_tune.inference.result_cache import (
    cached_path,
    read_cached,
    recipe_hash,
    write_cached,
)
from moonshine_tune.models.lora import adapter_disabled
from moonshine_tune.models.losses import FrozenHead, head_kl_sum, target_batch
from moonshine_tune.registry.open import OpenedModel

# With stored states only the decoder runs, and its cost per token hardly grows with the batch.
_BATCH_S = 400.0


@dataclass(frozen=True)
class Replay:
    """Replay clips, their targets, and the order in which they are drawn.

    Attributes:
        transcripts: token ids of the clips whose target is their own text; for the others it is
            the teacher's distribution.
        remarks: how many clips were left out, and why.
    """

    source: StateSource
    teacher: "ReplayTeacher"
    sampler: BucketSampler
    transcripts: Mapping[int, Sequence[int]]
    remarks: tuple[str, ...]

    def num_targets(self, indices: Sequence[int]) -> int:
        """Target tokens of some clips, end tokens included."""
        texts = [self.transcripts.get(i) or self.teacher.teacher_tokens[i] for i in indices]
        return sum(len(text) + 1 for text in texts)


class ReplayTeacher:
    """The base model's text and distribution for each replay clip; an adapter is disabled.

    The texts are decoded once and kept in the cache for later runs.

    Args:
        source: encoder states of the replay clips.
        indices: the clips that will be drawn.

    Attributes:
        teacher_tokens: token ids of the base's text for each clip.
    """

    def __init__(
        self,
        opened: OpenedModel,
        dataset: SpeechDataset,
        source: StateSource,
        indices: Sequence[int],
        progress: Progress,
    ) -> None:
        self._model, self._source, self._limits = opened.model, source, opened.limits
        self._hidden: dict[int, Tensor] = {}
        identity = [
            opened.base["sha256"],
            str(opened.model.dtype),
            str(opened.device.device.type),
            opened.limits.tokens_per_second,
            recipe_hash("inference/greedy.py", "inference/decoder_session.py"),
            [dataset.content_key(index) for index in indices],
        ]
        path = cached_path("replay-texts", identity)
        known = read_cached(path, list[list[int]], len(indices), progress)
        self.teacher_tokens = {} if known is None else dict(zip(indices, known, strict=True))
        groups = batches_by_length([source.seconds[index] for index in indices], _BATCH_S)
        rows = [[indices[position] for position in group] for group in groups]
        name = "running the base model on replay audio"
        with adapter_disabled(self._model), progress.stage(name, len(indices)) as stage:
            run_with_oom_backoff(rows, self._run, self._model.device, stage)
        if known is None:
            tokens = [self.teacher_tokens[index] for index in indices]
            write_cached(path, tokens, progress)

    @torch.inference_mode()
    def _run(self, rows: Sequence[int]) -> None:
        states = self._source.batch(rows)
        if not all(index in self.teacher_tokens for index in rows):
            limits = [self._limits.tokens(self._source.seconds[index]) for index in rows]
            decoded = greedy_tokens(self._model, states, limits)
            self.teacher_tokens |= dict(zip(rows, decoded, strict=True))
        texts = [self.teacher_tokens[index] for index in rows]
        targets = target_batch(texts, self._model.device)
        hidden = self._model.decoder_hidden(states, targets.input_ids)
        for row, (index, tokens) in enumerate(zip(rows, texts, strict=True)):
            self._hidden[index] = hidden[row, : len(tokens) + 1].to("cpu").clone()

    def kl_sum(self, indices: Sequence[int], head: FrozenHead) -> Tensor:
        """Σ KL(base ‖ adapted) over every token of the teacher's text for some clips, in nats."""
        texts = [self.teacher_tokens[index] for index in indices]
        targets = target_batch(texts, self._model.device, pad_to_bucket=True)
        kept = [self._hidden[index] for index in indices]
        length = targets.targets.shape[1]
        hidden = torch.zeros(len(kept), length, kept[0].shape[1], dtype=kept[0].dtype)
        for row, states in zip(hidden, kept, strict=True):
            row[: len(states)] = states
        adapted = self._model.decoder_hidden(self._source.batch(indices), targets.input_ids)
        teacher = hidden.to(adapted.device, adapted.dtype)
        return head_kl_sum(adapted, teacher, head, targets.targets)


def prepare_replay(
    utterances: Sequence[Utterance],
    settings: RunSettings,
    opened: OpenedModel,
    cache: EncoderCache,
    progress: Progress,
    *,
    available: int,
) -> Replay:
    """Encode the replay clips that will be drawn, and run the base model on them.

    Args:
        available: number of clips in the manifest, for the remark.
    """
    model, retain = opened.model, settings.retain
    dataset = build_dataset(
        utterances,
        model,
        name=f"replay, {len(utterances)} of {available} clips",
        max_clip_s=settings.data.max_clip_s,
        needs_text=False,
    )
    micro_batch = min(retain.clips_per_step, settings.train.batch_size)
    sampler = BucketSampler(
        dataset.seconds,
        batch_size=micro_batch,
        accumulation=-(-retain.clips_per_step // micro_batch),
        seed=settings.train.seed,
    )
    drawn = sampler.drawn(settings.train.steps)
    source = cache.source(dataset, drawn, "replay")
    transcripts: dict[int, Sequence[int]] = {}
    if retain.targets == "transcripts":
        transcripts = {index: dataset.tokens[index] for index in drawn if dataset.tokens[index]}
    without_text = [index for index in drawn if index not in transcripts]
    teacher = ReplayTeacher(opened, dataset, source, without_text, progress)
    return Replay(source, teacher, sampler, transcripts, dataset.remarks)

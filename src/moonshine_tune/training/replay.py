"""Replay: general speech in every step, on which the frozen base model is the teacher.

For each clip, the base's own greedy text and its final hidden states are kept. The frozen head
turns the states back into the teacher's distribution when it is needed. No transcripts are used,
so any general audio in the right language will do.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.files import write_json_atomic
from moonshine_tune.core.hardware import cache_root, make_cache_folder
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.sampler import BucketSampler
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.inference.batching import batches_by_length, run_with_oom_backoff
from moonshine_tune.inference.dataset import SpeechDataset, build_dataset
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.inference.encoder_cache_budget import StateStores
from moonshine_tune.inference.encoder_cache_disk import recipe_hash
from moonshine_tune.inference.greedy import greedy_tokens
from moonshine_tune.models.base import DecodeLimits, SpeechModel
from moonshine_tune.models.lora import adapter_disabled
from moonshine_tune.models.losses import FrozenHead, head_kl_sum, target_batch
from moonshine_tune.registry.open import OpenedModel

# A canary of a clip or two says nothing: a single word would be 10 % of it.
_MIN_WATCHED = 5
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


def base_hidden(
    model: SpeechModel, source: StateSource, indices: Sequence[int], input_ids: Tensor
) -> Tensor:
    """The frozen base's final hidden states [B, L, W] for texts on some clips, without a graph.

    Computed in each step, at the price of a decoder pass: kept for every version of every clip,
    they would take as much memory as the encoder states.
    """
    with torch.no_grad(), adapter_disabled(model):
        return model.decoder_hidden(source.batch(indices), input_ids)


class ReplayTeacher:
    """The base model's text and distribution for each replay clip.

    Build it before the adapter is trained.

    Args:
        source: encoder states of the replay clips.
        indices: the clips that will be drawn.
        known: the base's texts as token ids, where an earlier run has decoded them.

    Attributes:
        teacher_tokens: token ids of the base's text for each clip.
    """

    def __init__(
        self,
        model: SpeechModel,
        source: StateSource,
        indices: Sequence[int],
        limits: DecodeLimits,
        progress: Progress,
        *,
        known: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        self._model, self._source, self._limits = model, source, limits
        self.teacher_tokens = {index: list(tokens) for index, tokens in (known or {}).items()}
        self._hidden: dict[int, Tensor] = {}
        groups = batches_by_length([source.seconds[index] for index in indices], _BATCH_S)
        with progress.stage("running the base model on replay audio", len(indices)) as stage:

            def run(rows: Sequence[int]) -> None:
                self._run(rows)
                stage.advance(len(rows))

            run_with_oom_backoff(
                [[indices[position] for position in group] for group in groups], run, model.device
            )

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


def split_replay(
    utterances: Sequence[Utterance], settings: RunSettings, *, has_canary: bool
) -> tuple[list[Utterance], list[Utterance]]:
    """The clips that are replayed and those that are watched instead, both evenly chosen.

    Watched clips lose their texts: they show how far the adapter drifts from the base's output.
    """
    count = min(settings.retain.watched_clips, len(utterances) // 5)
    if has_canary or count < _MIN_WATCHED:
        count = 0
    watched = set(evenly_chosen(range(len(utterances)), count))
    rest = [item for index, item in enumerate(utterances) if index not in watched]
    replayed = evenly_chosen(rest, settings.retain.max_clips)
    return replayed, [replace(utterances[index], text=None) for index in sorted(watched)]


def prepare_replay(
    utterances: Sequence[Utterance],
    settings: RunSettings,
    opened: OpenedModel,
    stores: StateStores,
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
    source = stores.source(dataset, drawn, "replay")
    transcripts: dict[int, Sequence[int]] = {}
    if retain.targets == "transcripts":
        transcripts = {index: dataset.tokens[index] for index in drawn if dataset.tokens[index]}
    without_text = [index for index in drawn if index not in transcripts]
    teacher = _build_teacher(dataset, without_text, opened, source, progress)
    return Replay(source, teacher, sampler, transcripts, dataset.remarks)


def _build_teacher(
    dataset: SpeechDataset,
    indices: Sequence[int],
    opened: OpenedModel,
    source: StateSource,
    progress: Progress,
) -> ReplayTeacher:
    """The teacher; the base's texts are decoded once and kept in the cache for later runs."""
    identity = [
        opened.base["sha256"],
        str(opened.model.dtype),
        str(opened.device.device.type),
        opened.limits.tokens_per_second,
        recipe_hash("inference/greedy.py", "inference/decoder_session.py"),
        [dataset.content_key(index) for index in indices],
    ]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    path = make_cache_folder(cache_root() / "replay-texts") / f"{name}.json"
    known = _read_tokens(path, indices)
    with adapter_disabled(opened.model):
        teacher = ReplayTeacher(opened.model, source, indices, opened.limits, progress, known=known)
    if known is None:
        write_json_atomic(path, [teacher.teacher_tokens[index] for index in indices])
    return teacher


def _read_tokens(path: Path, indices: Sequence[int]) -> dict[int, list[int]] | None:
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
        if len(texts) != len(indices):
            return None
        return {
            index: [int(token) for token in text]
            for index, text in zip(indices, texts, strict=True)
        }
    except (OSError, ValueError, TypeError):
        return None

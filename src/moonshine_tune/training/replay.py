"""Replay: general speech in every step, on which the frozen base model is the teacher.

The replay audio is cut into short windows: an encoder that trains must run on all of it with
gradients, and the time of attention grows faster than the length. For each window, the base's own
greedy text, its final hidden states and, if the encoder trains, its encoder states are kept. The
frozen head turns the hidden states back into the teacher's distribution when it is needed. No
transcripts are used, so any general audio in the right language will do.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moonshine_tune.audio.augment import Recipe
from moonshine_tune.audio.noise_bank import COLORED_NOISES
from moonshine_tune.config.settings import AugmentSettings, RunSettings
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.sampler import BucketSampler
from moonshine_tune.inference.batching import batches_by_length, run_with_oom_backoff
from moonshine_tune.inference.dataset import SpeechDataset, build_dataset
from moonshine_tune.inference.encoder_cache import Clips, EncoderCache, StateSource
from moonshine_tune.inference.greedy import greedy_tokens
from moonshine_tune.inference.result_cache import (
    cached_path,
    read_cached,
    recipe_hash,
    write_cached,
)
from moonshine_tune.models.base import EncoderStates
from moonshine_tune.models.lora import adapter_disabled
from moonshine_tune.models.losses import FrozenHead, head_kl_sum, target_batch
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.training.augmentation import AugmentedCopies, NoiseBanks

# With stored states only the decoder runs, and its cost per token hardly grows with the batch.
_BATCH_S = 400.0


@dataclass(frozen=True)
class Replay:
    """Windows of replay audio, their targets, and the order in which they are drawn.

    Attributes:
        transcripts: token ids of the clips whose target is their own text, empty for silence; for
            the others it is the teacher's distribution.
        remarks: how many clips were left out, and why.
    """

    source: StateSource
    teacher: "ReplayTeacher"
    sampler: BucketSampler
    transcripts: Mapping[int, Sequence[int]]
    remarks: tuple[str, ...]

    def num_targets(self, indices: Sequence[int]) -> int:
        """Target tokens of some clips, end tokens included."""
        own, teacher = self.transcripts, self.teacher.teacher_tokens
        return sum(len(own[i] if i in own else teacher[i]) + 1 for i in indices)


class ReplayTeacher:
    """The base model's text and distribution for each replay clip; an adapter is disabled.

    The texts are decoded once and kept in the cache for later runs.

    Args:
        source: encoder states of the replay clips.
        indices: the clips that will be drawn.

        keeps_states: keep the base's encoder states too, for the encoder that trains.

    Attributes:
        teacher_tokens: token ids of the base's text for each clip.
    """

    def __init__(
        self,
        opened: OpenedModel,
        clips: Clips,
        source: StateSource,
        indices: Sequence[int],
        progress: Progress,
        *,
        keeps_states: bool,
    ) -> None:
        self._model, self._source, self._limits = opened.model, source, opened.limits
        self.keeps_states = keeps_states
        self._hidden: dict[int, Tensor] = {}
        self._states: dict[int, Tensor] = {}
        identity = [
            opened.base["sha256"],
            str(opened.model.dtype),
            str(opened.device.device.type),
            opened.limits.tokens_per_second,
            recipe_hash("inference/greedy.py", "inference/decoder_session.py"),
            [clips.content_key(index) for index in indices],
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
            if self.keeps_states:
                # In 16 bits: what is pulled to them is a thousand times coarser.
                own = states.values[row, : states.lengths[row]]
                self._states[index] = own.to("cpu", torch.float16).contiguous()

    def kl_sum(self, indices: Sequence[int], states: EncoderStates, head: FrozenHead) -> Tensor:
        """Σ KL(base ‖ adapted) over every token of the teacher's text for some clips, in nats.

        Args:
            states: the adapted encoder's, of these clips.
        """
        texts = [self.teacher_tokens[index] for index in indices]
        targets = target_batch(texts, self._model.device, pad_to_bucket=True)
        kept = [self._hidden[index] for index in indices]
        hidden = _padded(kept, targets.targets.shape[1])
        adapted = self._model.decoder_hidden(states, targets.input_ids)
        teacher = hidden.to(adapted.device, adapted.dtype)
        return head_kl_sum(adapted, teacher, head, targets.targets)

    def states_distance_sum(self, indices: Sequence[int], states: EncoderStates) -> Tensor:
        """Σ over clips of ‖adapted − base‖² ÷ ‖base‖² of the encoder states."""
        kept = [self._states[index] for index in indices]
        base = _padded(kept, states.values.shape[1]).to(states.values.device).float()
        difference = states.values.float() - base
        mask = states.mask()
        if mask is not None:
            difference = difference * mask[:, :, None]
        distances: Tensor = difference.square().sum(dim=(1, 2)) / base.square().sum(dim=(1, 2))
        return distances.sum()


def _padded(rows: Sequence[Tensor], length: int) -> Tensor:
    """Rows [n, W] as one batch [B, length, W], padded with zeros."""
    values = torch.zeros(len(rows), length, rows[0].shape[1], dtype=rows[0].dtype)
    for row, content in zip(values, rows, strict=True):
        row[: len(content)] = content
    return values


# Other voices, lines and noises than a corpus of clean reading has.
_VARIATION = AugmentSettings(
    share=1.0,
    variants=1,
    speed_chance=0.8,
    speeds=(0.8, 1.2),
    noise_chance=0.6,
    snr_db=(5.0, 25.0),
    room_chance=0.0,
    telephone_chance=0.15,
    gain_chance=0.5,
    clipping_chance=0.05,
    masking_chance=0.1,
)


class VariedWindows(AugmentedCopies):
    """Replay windows, a share of them augmented, by the window's own index.

    The base model teaches on any audio, whatever it writes there. Clean reading alone does not show
    what an adapter does to other voices, lines and noises.
    """

    def __init__(self, dataset: SpeechDataset, share: float, *, seed: int) -> None:
        super().__init__(dataset, _VARIATION, NoiseBanks(COLORED_NOISES, None), seed=seed)
        self._varied_share = share

    def _recipe(self, index: int) -> Recipe:
        utterance = self._dataset.utterances[index]
        drawn = random.Random(f"{self._seed}/varied/{utterance.id}").random()
        if drawn >= self._varied_share or self._dataset.is_silent(index):
            return Recipe()
        return super()._recipe(index)


def prepare_replay(
    utterances: Sequence[Utterance],
    settings: RunSettings,
    opened: OpenedModel,
    cache: EncoderCache,
    progress: Progress,
    *,
    available: int,
) -> Replay:
    """Encode the windows of replay audio that will be drawn, and run the base model on them.

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
    if retain.window_s and retain.targets == "teacher":
        dataset = cut_into_windows(dataset, retain.window_s)
    micro_batch = min(retain.clips_per_step, settings.train.batch_size)
    sampler = BucketSampler(
        dataset.seconds,
        batch_size=micro_batch,
        accumulation=-(-retain.clips_per_step // micro_batch),
        seed=settings.train.seed,
    )
    drawn = sampler.drawn(settings.train.steps)
    windows = VariedWindows(dataset, retain.varied_share, seed=settings.train.seed)
    source = cache.source(windows, drawn, "replay")
    transcripts: dict[int, Sequence[int]] = {}
    if retain.targets == "transcripts":
        transcripts = {index: dataset.tokens[index] for index in drawn if dataset.tokens[index]}
    if settings.data.teach_silence:
        # The base model is no teacher here: the words that it makes up are what must go.
        silent = (index for index in drawn if dataset.is_silent(index))
        transcripts |= dict.fromkeys(silent, ())
    without_text = [index for index in drawn if index not in transcripts]
    teacher = ReplayTeacher(
        opened,
        windows,
        source,
        without_text,
        progress,
        keeps_states=cache.trains_encoder and retain.encoder_weight > 0,
    )
    return Replay(source, teacher, sampler, transcripts, dataset.remarks)


def cut_into_windows(dataset: SpeechDataset, window_s: float) -> SpeechDataset:
    """The clips as windows of exactly `window_s` seconds; what is shorter stays as it is.

    The rest of a clip after its last full window is left out: windows of one length need no
    padding. Silent clips (with an empty text) stay whole, because they have a target of their own.
    """
    utterances: list[Utterance] = []
    for index, utterance in enumerate(dataset.utterances):
        if dataset.is_silent(index) or dataset.seconds[index] < window_s:
            utterances.append(utterance)
        else:
            utterances += _windows(utterance, dataset.seconds[index], window_s)
    num_cut = sum(utterance.text is None for utterance in utterances)
    return SpeechDataset(
        tuple(utterances),
        tuple(utterance.known_seconds or 0.0 for utterance in utterances),
        ((),) * len(utterances),
        (*dataset.remarks, f"replay: {num_cut} windows of {window_s:g} s"),
    )


def _windows(utterance: Utterance, seconds: float, window_s: float) -> Iterator[Utterance]:
    start = utterance.start or 0.0
    for number in range(int(seconds / window_s)):
        begin = start + number * window_s
        yield replace(
            utterance,
            id=f"{utterance.id}#{number}",
            text=None,
            start=begin,
            end=begin + window_s,
            duration=window_s,
        )

"""The frozen base model as teacher: its text, its distribution and its encoder states for a clip.

For each clip, the base's own greedy text, its final hidden states and, if asked for, its encoder
states are kept. The frozen head turns the hidden states back into the teacher's distribution when
it is needed. No transcripts are used, so any general audio in the right language will do.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from moonshine_tune.core.device import is_launch_bound
from moonshine_tune.core.progress import Progress
from moonshine_tune.inference.batching import (
    batches_by_length,
    encode_batch_s,
    run_with_oom_backoff,
)
from moonshine_tune.inference.encoder_cache import Clips, StateSource
from moonshine_tune.inference.greedy import greedy_tokens
from moonshine_tune.inference.result_cache import (
    cached_path,
    read_cached,
    recipe_hash,
    write_cached,
)
from moonshine_tune.models.base import EncoderStates
from moonshine_tune.models.lora import adapter_disabled
from moonshine_tune.models.losses import FrozenHead, TargetBatch, head_kl_sum, target_batch
from moonshine_tune.registry.open import OpenedModel

# With stored states only the decoder runs, and its cost per token hardly grows with the batch.
_BATCH_S = 400.0


class BaseTeacher:
    """The base model's text and distribution for each clip; an adapter is disabled.

    The texts are decoded once and kept in the cache for later runs.

    Args:
        source: their encoder states.
        indices: the clips that will be drawn.
        keeps_states: keep their encoder states too, for an encoder that trains.

    Attributes:
        keeps_states: as given.
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
        keeps_states: bool = False,
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
        batch_s = _BATCH_S if source.skips_encoder else encode_batch_s(opened.model.device)
        groups = batches_by_length([source.seconds[index] for index in indices], batch_s)
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
        device = self._model.device
        targets = target_batch(texts, device, pad_to_bucket=is_launch_bound(device))
        hidden = self._model.decoder_hidden(states, targets.input_ids)
        # At once: a read waits for the device, and every length would be a shape of its own.
        hidden = hidden.to("cpu")
        # In 16 bits: what is pulled to them is a thousand times coarser.
        kept = states.values.to("cpu", torch.float16) if self.keeps_states else None
        for row, (index, tokens) in enumerate(zip(rows, texts, strict=True)):
            self._hidden[index] = hidden[row, : len(tokens) + 1].clone()
            if kept is not None:
                self._states[index] = kept[row, : states.lengths[row]].clone()

    def kl_sum(self, indices: Sequence[int], states: EncoderStates, head: FrozenHead) -> Tensor:
        """Σ KL(base ‖ adapted) over every token of the teacher's text for some clips, in nats.

        Args:
            states: the adapted encoder's, of these clips.
        """
        targets = self.targets(indices)
        kept = [self._hidden[index] for index in indices]
        hidden = _padded(kept, targets.targets.shape[1])
        adapted = self._model.decoder_hidden(states, targets.input_ids)
        teacher = hidden.to(adapted.device, adapted.dtype)
        return head_kl_sum(adapted, teacher, head, targets.targets)

    def targets(self, indices: Sequence[int]) -> TargetBatch:
        """The teacher's texts of some clips."""
        texts = [self.teacher_tokens[index] for index in indices]
        return target_batch(texts, self._model.device, pad_to_bucket=True)

    def num_targets(self, indices: Sequence[int]) -> int:
        """Tokens of the teacher's texts, end tokens included."""
        return sum(len(self.teacher_tokens[index]) + 1 for index in indices)

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

"""The frozen base model as teacher on general audio: what keeps general speech from being lost.

For each replay clip the base's own greedy text and its final hidden states are kept; the frozen
head turns the states into the teacher's distribution again when it is needed. No transcripts are
used, so any general audio in the right language will do.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from moonshine_tune.core.progress import Progress
from moonshine_tune.inference.batching import batches_by_length, run_with_oom_backoff
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.inference.greedy import greedy_tokens
from moonshine_tune.models.base import DecodeLimits, SpeechModel
from moonshine_tune.models.lora import adapter_disabled
from moonshine_tune.models.losses import FrozenHead, TargetBatch, head_kl_sum, target_batch

# Stored states: only the decoder runs, and its cost a token hardly grows with the batch.
_BATCH_S = 400.0


def base_hidden(
    model: SpeechModel, source: StateSource, indices: Sequence[int], input_ids: Tensor
) -> Tensor:
    """The frozen base's final hidden states [B, L, W] for texts on some clips, without a graph.

    Made anew at each step, which costs a decoder pass: kept for every version of every clip they
    would take the room of the encoder's states again.
    """
    with torch.no_grad(), adapter_disabled(model):
        return model.decoder_hidden(source.batch(indices), input_ids)


class ReplayTeacher:
    """What the base model says to each replay clip. Build it before the adapter has moved.

    Args:
        source: encoder states of the replay clips.
        indices: the clips that will be drawn.
        known: what the base is known to say to clips, as token ids; the others are decoded.
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
        self._model = model
        self._source = source
        self._limits = limits
        self._tokens: dict[int, list[int]] = {
            index: list(known[index]) for index in indices if known and index in known
        }
        self._hidden: dict[int, Tensor] = {}
        seconds = [source.seconds[index] for index in indices]
        groups = batches_by_length(seconds, _BATCH_S)
        with progress.stage("listening to replay audio", len(indices)) as stage:

            def listen(rows: Sequence[int]) -> None:
                self._listen(rows)
                stage.advance(len(rows))

            run_with_oom_backoff(
                [[indices[place] for place in group] for group in groups], listen, model.device
            )

    @property
    def said(self) -> dict[int, list[int]]:
        """Token ids of what the base says to each clip."""
        return dict(self._tokens)

    @torch.inference_mode()
    def _listen(self, rows: Sequence[int]) -> None:
        states = self._source.batch(rows)
        if not all(index in self._tokens for index in rows):
            bounds = [self._limits.tokens(self._source.seconds[index]) for index in rows]
            answers = greedy_tokens(self._model, states, bounds)
            self._tokens |= dict(zip(rows, answers, strict=True))
        said = [self._tokens[index] for index in rows]
        targets = target_batch(said, self._model.device)
        hidden = self._model.decoder_hidden(states, targets.input_ids)
        for row, (index, tokens) in enumerate(zip(rows, said, strict=True)):
            self._hidden[index] = hidden[row, : len(tokens) + 1].to("cpu").clone()

    def targets(self, indices: Sequence[int]) -> TargetBatch:
        """The teacher's text for some clips."""
        said = [self._tokens[index] for index in indices]
        return target_batch(said, self._model.device, pad_to_bucket=True)

    def num_targets(self, indices: Sequence[int]) -> int:
        """Tokens, ends included, that the teacher said to some clips."""
        return sum(len(self._tokens[index]) + 1 for index in indices)

    def kl_sum(self, indices: Sequence[int], head: FrozenHead) -> Tensor:
        """Σ KL(base ‖ adapted) over every token of the teacher's text for some clips."""
        targets = self.targets(indices)
        kept = [self._hidden[index] for index in indices]
        longest = targets.targets.shape[1]
        hidden = torch.zeros(len(kept), longest, kept[0].shape[1], dtype=kept[0].dtype)
        for row, states in zip(hidden, kept, strict=True):
            row[: len(states)] = states
        adapted = self._model.decoder_hidden(self._source.batch(indices), targets.input_ids)
        teacher = hidden.to(adapted.device, adapted.dtype)
        return head_kl_sum(adapted, teacher, head, targets.targets)

"""Encoder states for training and scoring: stored once where the encoder is frozen, or made anew.

A frozen encoder gives the same states in every epoch and every dev score. Stored, a decoder step
costs a quarter of a full one. Price: 4 · width bytes a frame (tiny 48 KB, medium 154 KB a second
of audio in 32 bits), bounded by a budget; what does not fit is encoded when it is needed.
"""

from collections.abc import Callable, Sequence

import torch

from moonshine_tune.decode import Samples, batches_by_length, fit_clip, pad_clips
from moonshine_tune.families.interface import EncoderStates, SpeechModel
from moonshine_tune.progress import Progress

_PREPARE_BATCH_S = 60.0


class StateSource:
    """Encoder states of the utterances of one corpus, by index.

    Args:
        model: its encoder is run in whatever mode it is in.
        load: samples of an utterance, mono 16 kHz.
        seconds: length of each utterance, for batching.
        budget_mb: memory for stored states; 0 stores nothing, which an adapter in the encoder
            requires.
    """

    def __init__(
        self,
        model: SpeechModel,
        load: Callable[[int], Samples],
        seconds: Sequence[float],
        *,
        budget_mb: int,
    ) -> None:
        self._model = model
        self._load = load
        self._seconds = tuple(seconds)
        self._budget = budget_mb * 1_000_000
        self._stored: dict[int, torch.Tensor] = {}
        self.stored_bytes = 0

    def __len__(self) -> int:
        return len(self._seconds)

    @property
    def seconds(self) -> tuple[float, ...]:
        """Length of each utterance."""
        return self._seconds

    @property
    def stores(self) -> bool:
        """Whether states are kept at all."""
        return self._budget > 0

    def prepare(self, indices: Sequence[int], progress: Progress, name: str) -> int:
        """Encode and store utterances, in batches that do not depend on the training order.

        Returns how many are stored; the rest did not fit the budget.
        """
        if not self.stores:
            return 0
        wanted = [index for index in sorted(indices) if index not in self._stored]
        if not wanted:
            return len(self._stored)
        groups = batches_by_length([self._seconds[index] for index in wanted], _PREPARE_BATCH_S)
        with progress.stage(name, len(wanted)) as stage:
            for group in groups:
                if self.stored_bytes >= self._budget:
                    break
                rows = [wanted[place] for place in group]
                with torch.inference_mode():
                    states = self._encode(rows)
                for row, index in enumerate(rows):
                    # Clone: a view would keep the padded batch alive.
                    kept = states.values[row, : states.lengths[row]].to("cpu").clone()
                    self._stored[index] = kept
                    self.stored_bytes += kept.numel() * kept.element_size()
                stage.advance(len(rows), f"{self.stored_bytes / 1e6:.0f} MB")
        return len(self._stored)

    def batch(self, indices: Sequence[int]) -> EncoderStates:
        """States of a batch on the model's device, with a graph only if the encoder trains."""
        if not self.stores:
            return self._encode(indices)
        missing = [index for index in indices if index not in self._stored]
        if missing:
            with torch.no_grad():
                return self._encode(indices)
        kept = [self._stored[index] for index in indices]
        lengths = tuple(len(states) for states in kept)
        values = torch.zeros(len(kept), max(lengths), kept[0].shape[1], dtype=kept[0].dtype)
        for row, states in zip(values, kept, strict=True):
            row[: len(states)] = states
        return EncoderStates(values.to(self._model.device), lengths)

    def _encode(self, indices: Sequence[int]) -> EncoderStates:
        clips = [fit_clip(self._model, self._load(index)) for index in indices]
        audio, counts = pad_clips(clips, self._model.device)
        return self._model.encode(audio, counts)

"""Encoder states for training and scoring, computed once and stored.

A frozen encoder gives the same states in every epoch and every dev score. With stored states, a
training step costs a quarter. If the encoder trains, its front end is still frozen: its output, of
the same size, is stored, and the audio is decoded and convolved once. Small datasets are kept in
memory as they are: 4 · width bytes per frame (tiny 48 KB, medium 154 KB per second of audio in
32 bits). Larger ones are stored on disk in 16 bits, where later runs find them. Clips that fit
neither bound are encoded when they are needed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.core.device import batch_width, release_memory
from moonshine_tune.core.progress import Progress
from moonshine_tune.inference.batching import (
    batches_by_length,
    encode_batch_s,
    fit_clip,
    pad_clips,
    run_with_oom_backoff,
)
from moonshine_tune.inference.encoder_cache_disk import ShardWriter, StateShards
from moonshine_tune.models.base import EncoderStates, SpeechModel

_MB = 1_000_000


@dataclass(frozen=True)
class OnDisk:
    """Storage on disk: the shards, and the key of each utterance in them."""

    shards: StateShards
    key: Callable[[int], str]


class StateSource:
    """Encoder states of the utterances of one dataset, by index.

    Args:
        model: its encoder is run in the mode that it is in.
        load: samples of an utterance, mono 16 kHz.
        seconds: length of each utterance, for batching.
        budget_mb: memory for stored states; 0 stores nothing.
        disk: store the states there instead of in memory.
        trains_encoder: store the output of the front end instead of the states.
    """

    def __init__(
        self,
        model: SpeechModel,
        load: Callable[[int], Samples],
        seconds: Sequence[float],
        *,
        budget_mb: int,
        disk: OnDisk | None = None,
        trains_encoder: bool = False,
    ) -> None:
        self._model = model
        self._trains_encoder = trains_encoder
        self._load = load
        self._seconds = tuple(seconds)
        self._budget = budget_mb * _MB
        self._disk = disk
        self._dtype = model.dtype
        self._stored: dict[int, Tensor] = {}
        self.stored_bytes = 0

    def __len__(self) -> int:
        return len(self._seconds)

    @property
    def seconds(self) -> tuple[float, ...]:
        """Length of each utterance."""
        return self._seconds

    @property
    def stores(self) -> bool:
        """Whether anything is stored at all."""
        return self._budget > 0 or self._disk is not None

    @property
    def skips_encoder(self) -> bool:
        """Whether encoder states are stored, so that only the decoder runs."""
        return self.stores and not self._trains_encoder

    def holds(self, indices: Sequence[int]) -> bool:
        """Whether all of these are stored, so that their audio is not needed any more."""
        return all(index in self._stored for index in indices)

    def prepare(self, indices: Sequence[int], progress: Progress, name: str) -> int:
        """Encode and store utterances; returns how many are stored, as far as they fit.

        The batches depend neither on the training order nor on what is stored already, so the
        numbers are the same after a kill.
        """
        wanted = sorted(set(indices))
        if not self.stores or self.holds(wanted):
            return len(self._stored)
        batch_s = encode_batch_s(self._model.device)
        groups = batches_by_length([self._seconds[index] for index in wanted], batch_s)
        rows = [[wanted[position] for position in group] for group in groups]
        if self._disk is None:
            self._prepare_in_memory(rows, progress, name)
        else:
            with self._disk.shards.lock(progress):
                self._prepare_on_disk(self._disk, rows, progress, name)
        return len(self._stored)

    def batch(self, indices: Sequence[int]) -> EncoderStates:
        """States of a batch on the model's device, with a graph only if the encoder trains."""
        if not self.holds(indices):
            # A frozen encoder needs no gradient: without a graph, activations are freed at once.
            with nullcontext() if self._trains_encoder else torch.no_grad():
                return self._model.encode(*self._audio(indices))
        stored = self._stored_batch(indices)
        return self._model.encoder_layers(stored) if self._trains_encoder else stored

    def _stored_batch(self, indices: Sequence[int]) -> EncoderStates:
        kept = [self._stored[index] for index in indices]
        lengths = tuple(len(states) for states in kept)
        width = batch_width(max(lengths), self._model.device)
        values = torch.zeros(len(kept), width, kept[0].shape[1], dtype=kept[0].dtype)
        for row, states in zip(values, kept, strict=True):
            row[: len(states)] = states
        # Moved in the stored format: half as many bytes in 16 bits.
        return EncoderStates(values.to(self._model.device).to(self._dtype), lengths)

    def _prepare_in_memory(
        self, groups: Sequence[Sequence[int]], progress: Progress, name: str
    ) -> None:
        with progress.stage(name, sum(map(len, groups))) as stage:

            def encode(rows: Sequence[int]) -> None:
                if self.stored_bytes < self._budget:
                    for index, kept in self._encoded(rows):
                        self._keep(index, kept)
                    stage.advance(len(rows), f"{self.stored_bytes / _MB:.0f} MB")

            run_with_oom_backoff(groups, encode, self._model.device)

    def _prepare_on_disk(
        self, disk: OnDisk, groups: Sequence[Sequence[int]], progress: Progress, name: str
    ) -> None:
        keys = {index: disk.key(index) for rows in groups for index in rows}
        stored, damaged = disk.shards.find(set(keys.values()))
        if damaged:
            progress.say(f"removed {damaged} damaged files of encoder states: encoding them again")
        for index, key in keys.items():
            if key in stored:
                self._keep(index, stored[key])
        missing = [index for index in keys if index not in self._stored]
        wanted = states_bytes(
            self._model, [self._seconds[index] for index in missing], disk.shards.dtype
        )
        writer = ShardWriter(disk.shards, wanted, progress)
        with progress.stage(name, len(keys)) as stage:
            stage.advance(len(keys) - len(missing), "found on disk")

            def encode(rows: Sequence[int]) -> None:
                for index, states in self._encoded(rows) if writer.is_open else ():
                    if index not in self._stored:
                        writer.put(keys[index], states)
                        stage.advance()

            remaining = [rows for rows in groups if not self.holds(rows)]
            run_with_oom_backoff(remaining, encode, self._model.device)
            writer.flush()
        for index in missing:
            if keys[index] in writer.written:
                self._keep(index, writer.written[keys[index]])
        if not self.holds(missing):
            count = sum(index not in self._stored for index in missing)
            progress.say(f"{name}: {count} of {len(keys)} clips did not fit the cache on disk")

    def _encoded(self, rows: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        with torch.inference_mode():
            audio, counts = self._audio(rows)
            encode = self._model.front_end if self._trains_encoder else self._model.encode
            states = encode(audio, counts)
        for row, index in enumerate(rows):
            frames = states.values[row, : states.lengths[row]].to("cpu")
            # A view would keep the padded batch in memory.
            yield index, frames.clone(memory_format=torch.contiguous_format)

    def _keep(self, index: int, states: Tensor) -> None:
        self._stored[index] = states
        self.stored_bytes += states.numel() * states.element_size()

    def _audio(self, indices: Sequence[int]) -> tuple[Tensor, list[int]]:
        clips = [fit_clip(self._model, self._load(index)) for index in indices]
        return pad_clips(clips, self._model.device, pad_to_bucket=True)


def states_bytes(model: SpeechModel, seconds: Sequence[float], dtype: torch.dtype) -> int:
    """Bytes of the encoder states of clips of these lengths."""
    width = int(model.encoder.layers[0].self_attn.q_proj.weight.shape[1])
    frames = (model.frame_count(round(length * SAMPLE_RATE_HZ)) + 1 for length in seconds)
    return sum(frames) * width * dtype.itemsize


def release_encoder(model: SpeechModel) -> int:
    """Free the encoder's weights, once all states are stored; returns the MB freed.

    The model can still decode stored states and train its decoder, but not encode.
    """
    encoder: nn.Module = model.encoder
    freed = sum(value.numel() * value.element_size() for value in encoder.parameters())
    encoder.to("meta")
    release_memory(model.device)
    return freed // _MB

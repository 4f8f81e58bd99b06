"""Encoder states for training and scoring, computed once and stored.

A frozen encoder gives the same states in every epoch and every dev score. With stored states, a
training step costs a quarter. If the encoder trains, its front end is still frozen: its output, of
the same size, is stored, and the audio is decoded and convolved once. Small datasets are kept in
memory as they are: 4 · width bytes per frame (tiny 48 KB, medium 154 KB per second of audio in
32 bits). Larger ones are stored on disk in 16 bits, where later runs find them. Clips that fit
neither bound are encoded when they are needed.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.config.settings import DeviceSettings
from moonshine_tune.core.device import batch_width, release_memory
from moonshine_tune.core.hardware import cache_root
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.stopwatch import Stopwatch
from moonshine_tune.inference.batching import (
    batches_by_length,
    encode_batch_s,
    fit_clip,
    pad_clips,
    run_with_oom_backoff,
)
from moonshine_tune.inference.dataset import is_about
from moonshine_tune.inference.encoder_cache_disk import ShardWriter, StateShards
from moonshine_tune.models.base import EncoderStates, SpeechModel
from moonshine_tune.registry.open import OpenedModel

_MB = 1_000_000


class Clips(Protocol):
    """What can be encoded: a dataset, or augmented versions of one."""

    @property
    def seconds(self) -> Sequence[float]:
        """Length of each clip."""
        ...

    def load(self, index: int, /) -> Samples:
        """Samples, mono 16 kHz."""
        ...

    def content_key(self, index: int, /) -> str:
        """Identifies the sound by its content, wherever the file is."""
        ...


class StateSource:
    """Encoder states of clips, by index.

    Args:
        model: its encoder is run in the mode that it is in.
        budget_mb: memory for stored states; 0 stores nothing.
        shards: store the states there, on disk, instead of in memory.
        trains_encoder: store the output of the front end instead of the states.
    """

    def __init__(
        self,
        model: SpeechModel,
        clips: Clips,
        *,
        budget_mb: int,
        shards: StateShards | None = None,
        trains_encoder: bool = False,
    ) -> None:
        self._model, self._clips, self._shards = model, clips, shards
        self._trains_encoder = trains_encoder
        self._budget = budget_mb * _MB
        self._dtype = model.dtype
        self._stored: dict[int, Tensor] = {}
        self.stored_bytes = 0

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def seconds(self) -> Sequence[float]:
        """Length of each clip."""
        return self._clips.seconds

    @property
    def stores(self) -> bool:
        """Whether anything is stored at all."""
        return self._budget > 0 or self._shards is not None

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
        groups = batches_by_length([self.seconds[index] for index in wanted], batch_s)
        rows = [[wanted[position] for position in group] for group in groups]
        if self._shards is None:
            self._prepare_in_memory(rows, progress, name)
        else:
            with self._shards.lock(progress):
                self._prepare_on_disk(self._shards, rows, progress, name)
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
        self, shards: StateShards, groups: Sequence[Sequence[int]], progress: Progress, name: str
    ) -> None:
        keys = {index: self._clips.content_key(index) for rows in groups for index in rows}
        stored, damaged = shards.find(set(keys.values()))
        if damaged:
            progress.say(f"removed {damaged} damaged files of encoder states: encoding them again")
        for index, key in keys.items():
            # Of another length than the manifest says: loading the clip reports that.
            if key in stored and self._is_as_long(index, len(stored[key])):
                self._keep(index, stored[key])
        missing = [index for index in keys if index not in self._stored]
        lengths = [self.seconds[index] for index in missing]
        writer = ShardWriter(shards, states_bytes(self._model, lengths, shards.dtype), progress)
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

    def _is_as_long(self, index: int, frames: int) -> bool:
        stated = self.seconds[index]
        expected = self._model.frame_count(round(stated * SAMPLE_RATE_HZ))
        return is_about(stated, frames * stated / max(expected, 1))

    def _encoded(self, rows: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        with torch.inference_mode():
            audio, counts = self._audio(rows)
            encode = self._model.front_end if self._trains_encoder else self._model.encode
            states = encode(audio, counts)
            # At once: a read waits for the device, and every length would be a shape of its own.
            values = states.values.to("cpu")
        for row, index in enumerate(rows):
            frames = values[row, : states.lengths[row]]
            # A view would keep the padded batch in memory.
            yield index, frames.clone(memory_format=torch.contiguous_format)

    def _keep(self, index: int, states: Tensor) -> None:
        self._stored[index] = states
        self.stored_bytes += states.numel() * states.element_size()

    def _audio(self, indices: Sequence[int]) -> tuple[Tensor, list[int]]:
        clips = [fit_clip(self._model, self._clips.load(index)) for index in indices]
        return pad_clips(clips, self._model.device, pad_to_bucket=True)


class EncoderCache:
    """Gives each set of clips its source of encoder states, all within one memory budget.

    Where the states are stored depends on their size: in memory, else on disk.

    Args:
        trains_encoder: store the output of the encoder's front end instead of its states.
        stopwatch: counts `encoding`, reading of the audio included.

    Attributes:
        trains_encoder: as given.
        needs_encoder: whether audio will be encoded after the preparation.
        remarks: one line for each set that is stored on disk.
    """

    def __init__(
        self,
        settings: DeviceSettings,
        opened: OpenedModel,
        progress: Progress,
        *,
        trains_encoder: bool,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self._stopwatch = stopwatch or Stopwatch()
        self._settings, self._model, self._progress = settings, opened.model, progress
        self.trains_encoder = self.needs_encoder = trains_encoder
        self._free_mb = settings.state_cache_mb
        # Weights in bfloat16 give states in bfloat16: stored as they are, without rounding.
        dtype = getattr(torch, settings.state_format)
        dtype = torch.bfloat16 if opened.model.dtype == torch.bfloat16 else dtype
        part = " front end" if trains_encoder else ""
        self._shards = StateShards(
            cache_root() / "encoder-states",
            f"{opened.base['sha256']} {opened.model.dtype}{part}",
            dtype=dtype,
            bound_mb=settings.state_disk_mb,
        )
        self.remarks: list[str] = []

    def source(self, clips: Clips, drawn: Sequence[int] | None, name: str) -> StateSource:
        """The source of a set, with the states of the clips `drawn` stored if they fit.

        Args:
            drawn: None where no clip is drawn twice: nothing is stored then.
        """
        budget_mb, shards = (0, None) if drawn is None else self._choose(clips, drawn, name)
        source = StateSource(
            self._model,
            clips,
            budget_mb=budget_mb,
            shards=shards,
            trains_encoder=self.trains_encoder,
        )
        if drawn is not None:
            with self._stopwatch.measure("encoding"):
                source.prepare(drawn, self._progress, f"encoding {name}")
        self.needs_encoder |= drawn is None or not source.holds(drawn)
        return source

    def _choose(
        self, clips: Clips, drawn: Sequence[int], name: str
    ) -> tuple[int, StateShards | None]:
        """The memory for a set in MB, and the shards if it is stored on disk."""
        storage = self._settings.state_storage
        seconds = [clips.seconds[index] for index in drawn]
        needed_mb = -(-states_bytes(self._model, seconds, self._model.dtype) // _MB)
        if storage == "memory" or (storage == "auto" and needed_mb <= self._free_mb):
            budget_mb = self._free_mb
            self._free_mb = max(budget_mb - needed_mb, 0)
            return budget_mb, None
        if storage != "disk" and self._settings.state_cache_mb == 0:
            return 0, None
        disk_mb = -(-states_bytes(self._model, seconds, self._shards.dtype) // _MB)
        reason = "asked for" if storage == "disk" else f"{needed_mb} MB do not fit in memory"
        dtype = str(self._shards.dtype).removeprefix("torch.")
        what = "inputs of the encoder's layers" if self.trains_encoder else "encoder states"
        self.remarks.append(f"{name}: {what} on disk, {disk_mb} MB in {dtype}: {reason}")
        return 0, self._shards


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

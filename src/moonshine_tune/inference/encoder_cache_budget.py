"""Where the encoder states of each set of a run are stored, chosen by their size."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from moonshine_tune.audio.samples import Samples
from moonshine_tune.config.settings import DeviceSettings
from moonshine_tune.core.hardware import cache_root
from moonshine_tune.core.progress import Progress
from moonshine_tune.inference.encoder_cache import OnDisk, StateSource, states_bytes
from moonshine_tune.inference.encoder_cache_disk import StateShards
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


class StateStores:
    """Gives each set of clips its source of encoder states, all within one memory budget.

    Args:
        trains_encoder: store the output of the encoder's front end instead of its states.

    Attributes:
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
    ) -> None:
        self._settings, self._model, self._progress = settings, opened.model, progress
        self._trains_encoder = self.needs_encoder = trains_encoder
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

    def source(self, clips: Clips, drawn: Sequence[int], name: str) -> StateSource:
        """The source of a set, with the states of the clips `drawn` stored if they fit."""
        source = self._choose(clips, drawn, name)
        source.prepare(drawn, self._progress, f"encoding {name}")
        self.needs_encoder |= not source.holds(drawn)
        return source

    def endless(self, load: Callable[[int], Samples]) -> StateSource:
        """The source of clips that are never drawn twice: nothing is stored."""
        self.needs_encoder = True
        return StateSource(self._model, load, (), budget_mb=0, trains_encoder=self._trains_encoder)

    def _choose(self, clips: Clips, drawn: Sequence[int], name: str) -> StateSource:
        storage = self._settings.state_storage
        seconds = [clips.seconds[index] for index in drawn]
        needed_mb = -(-states_bytes(self._model, seconds, self._model.dtype) // _MB)
        budget_mb, disk = 0, None
        if storage == "memory" or (storage == "auto" and needed_mb <= self._free_mb):
            budget_mb = self._free_mb
            self._free_mb = max(budget_mb - needed_mb, 0)
        elif storage == "disk" or self._settings.state_cache_mb > 0:
            disk = OnDisk(self._shards, clips.content_key)
            disk_mb = -(-states_bytes(self._model, seconds, self._shards.dtype) // _MB)
            reason = "asked for" if storage == "disk" else f"{needed_mb} MB do not fit in memory"
            dtype = str(self._shards.dtype).removeprefix("torch.")
            what = "inputs of the encoder's layers" if self._trains_encoder else "encoder states"
            self.remarks.append(f"{name}: {what} on disk, {disk_mb} MB in {dtype}: {reason}")
        return StateSource(
            self._model,
            clips.load,
            clips.seconds,
            budget_mb=budget_mb,
            disk=disk,
            trains_encoder=self._trains_encoder,
        )

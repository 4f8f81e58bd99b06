"""Where each corpus of a run keeps its encoder states, chosen by their size."""

from collections.abc import Sequence
from typing import Protocol

import torch

from moonshine_tune.decode import Samples
from moonshine_tune.encoder_cache import OnDisk, StateSource, states_bytes
from moonshine_tune.jobs.model_opening import OpenedModel
from moonshine_tune.machine import cache_root
from moonshine_tune.settings import DeviceSettings
from moonshine_tune.state_shards import StateShards

_MB = 1_000_000


class Clips(Protocol):
    """What can be encoded: a corpus, or the versions of one."""

    @property
    def seconds(self) -> Sequence[float]:
        """Length of each clip."""
        ...

    def load(self, index: int, /) -> Samples:
        """Samples, mono 16 kHz."""
        ...

    def content_key(self, index: int, /) -> str:
        """Names what is heard, wherever it lies."""
        ...


class StateStores:
    """Gives each corpus its source of encoder states, all within one budget of memory.

    Args:
        is_frozen: whether the encoder stays as it is; else nothing may be stored.
    """

    def __init__(self, settings: DeviceSettings, opened: OpenedModel, *, is_frozen: bool) -> None:
        self._settings = settings
        self._model = opened.model
        self._is_frozen = is_frozen
        self._left_mb = settings.state_cache_mb
        wanted = getattr(torch, settings.state_format)
        # Weights in bfloat16 give states in bfloat16: kept as they are, nothing is rounded.
        dtype = torch.bfloat16 if opened.model.dtype == torch.bfloat16 else wanted
        self._shards = StateShards(
            cache_root() / "encoder-states",
            f"{opened.base['sha256']} {opened.model.dtype}",
            dtype=dtype,
            bound_mb=settings.state_disk_mb,
        )
        self.remarks: list[str] = []

    def source(self, corpus: Clips, drawn: Sequence[int], name: str) -> StateSource:
        """The source of a corpus of which the utterances `drawn` will be needed again and again."""
        model, storage = self._model, self._settings.state_storage
        seconds = [corpus.seconds[index] for index in drawn]
        needed_mb = -(-states_bytes(model, seconds, model.dtype) // _MB)
        is_asked = self._settings.state_cache_mb > 0 or storage == "disk"
        if not self._is_frozen or not is_asked:
            return StateSource(model, corpus.load, corpus.seconds, budget_mb=0)
        if storage == "memory" or (storage == "auto" and needed_mb <= self._left_mb):
            budget = self._left_mb
            self._left_mb = max(budget - needed_mb, 0)
            return StateSource(model, corpus.load, corpus.seconds, budget_mb=budget)
        on_disk_mb = -(-states_bytes(model, seconds, self._shards.dtype) // _MB)
        reason = "asked for" if storage == "disk" else f"{needed_mb} MB are too many for memory"
        kind = str(self._shards.dtype).removeprefix("torch.")
        self.remarks.append(f"{name}: encoder states on disk, {on_disk_mb} MB in {kind}: {reason}")
        disk = OnDisk(self._shards, corpus.content_key)
        return StateSource(model, corpus.load, corpus.seconds, budget_mb=0, disk=disk)

"""Where each corpus of a run keeps its encoder states, chosen by their size."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from moonshine_tune.audio.samples import Samples
from moonshine_tune.config.settings import DeviceSettings
from moonshine_tune.core.hardware import cache_root
from moonshine_tune.inference.encoder_cache import OnDisk, StateSource, states_bytes
from moonshine_tune.inference.encoder_cache_disk import StateShards
from moonshine_tune.registry.open import OpenedModel

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
        trains_encoder: keep what the encoder's front end makes instead of its states.
    """

    def __init__(
        self, settings: DeviceSettings, opened: OpenedModel, *, trains_encoder: bool
    ) -> None:
        self._settings = settings
        self._model = opened.model
        self.trains_encoder = trains_encoder
        self._left_mb = settings.state_cache_mb
        wanted = getattr(torch, settings.state_format)
        # Weights in bfloat16 give states in bfloat16: kept as they are, nothing is rounded.
        dtype = torch.bfloat16 if opened.model.dtype == torch.bfloat16 else wanted
        part = " front end" if trains_encoder else ""
        self._shards = StateShards(
            cache_root() / "encoder-states",
            f"{opened.base['sha256']} {opened.model.dtype}{part}",
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
        if not is_asked:
            return self._make(corpus)
        if storage == "memory" or (storage == "auto" and needed_mb <= self._left_mb):
            budget = self._left_mb
            self._left_mb = max(budget - needed_mb, 0)
            return self._make(corpus, budget_mb=budget)
        on_disk_mb = -(-states_bytes(model, seconds, self._shards.dtype) // _MB)
        reason = "asked for" if storage == "disk" else f"{needed_mb} MB are too many for memory"
        kind = str(self._shards.dtype).removeprefix("torch.")
        what = "what the encoder's layers read" if self.trains_encoder else "encoder states"
        self.remarks.append(f"{name}: {what} on disk, {on_disk_mb} MB in {kind}: {reason}")
        return self._make(corpus, disk=OnDisk(self._shards, corpus.content_key))

    def endless(self, load: Callable[[int], Samples]) -> StateSource:
        """The source of clips that are never heard twice."""
        return StateSource(self._model, load, (), budget_mb=0, trains_encoder=self.trains_encoder)

    def _make(
        self, corpus: Clips, *, budget_mb: int = 0, disk: OnDisk | None = None
    ) -> StateSource:
        return StateSource(
            self._model,
            corpus.load,
            corpus.seconds,
            budget_mb=budget_mb,
            disk=disk,
            trains_encoder=self.trains_encoder,
        )

"""Counts what lives: every storage that operators make, by part, from its making to its end.

Under fake tensors, which have shapes but no numbers, nothing of it is really taken.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operators make, by part, for as long as they live.

    Args:
        known: tensors that are counted elsewhere.
    """

    PARTS = ("audio", "encoder", "decoder", "logits", "backward")

    def __init__(self, known: Iterator[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}
        self._bytes = dict.fromkeys(self.PARTS, 0)
        self._part = "decoder"
        self._total = self._peak = 0
        self.at_peak: dict[str, int] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is made inside the block counts to this part."""
        before, self._part = self._part, name
        try:
            yield
        finally:
            self._part = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = select_all(func, args)
        if result is None:
            result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._hold(value.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self._bytes[self._part] += size
        self._total += size
        if self._total > self._peak:
            self._peak = self._total
            self.at_peak = dict(self._bytes)
        weakref.finalize(storage, self._drop, key, size, self._part)

    def _drop(self, key: int, size: int, part: str) -> None:
        self._seen.discard(key)
        self._bytes[part] -= size
        self._total -= size


def select_all(func: Any, args: Any) -> Tensor | None:
    """`values[mask]` as if the mask were true everywhere: without numbers its size is not known."""
    if func is not torch.ops.aten.index.Tensor:
        return None
    values, indices = args
    if len(indices) != 1 or indices[0].dtype != torch.bool:
        return None
    mask = indices[0]
    made: Tensor = values.new_empty((mask.numel(), *values.shape[mask.dim() :]))
    return made


def make_fake(module: nn.Module) -> None:
    """Turn parameters and buffers on the meta device into fake ones on the CPU; ties stay ties."""
    made: dict[int, Tensor] = {}
    for inner in module.modules():
        for held in (inner._parameters, inner._buffers):
            for name, value in held.items():
                if value is None:
                    continue
                if id(value) not in made:
                    empty = torch.empty(value.shape, dtype=value.dtype)
                    if isinstance(value, nn.Parameter):
                        empty = nn.Parameter(empty, requires_grad=value.requires_grad)
                    made[id(value)] = empty
                held[name] = made[id(value)]  # type: ignore[assignment]

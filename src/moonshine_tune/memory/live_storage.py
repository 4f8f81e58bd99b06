"""Counts live memory: every storage that operators allocate, by part, while it is alive.

With fake tensors, which have shapes but no data, nothing is really allocated.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operators allocate, by part, while they are alive.

    Args:
        known: tensors that are counted elsewhere.

    Attributes:
        at_peak: bytes by part when the sum was largest.
    """

    PARTS = ("audio", "encoder", "decoder", "logits", "backward")

    def __init__(self, known: Iterator[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive = {tensor.untyped_storage()._cdata for tensor in known}
        self._bytes = dict.fromkeys(self.PARTS, 0)
        self._part = "decoder"
        self._total = self._peak = 0
        self.at_peak: dict[str, int] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count allocations inside the block to this part."""
        outer, self._part = self._part, name
        try:
            yield
        finally:
            self._part = outer

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = all_positions(func, args)
        if result is None:
            result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive.add(key)
        self._bytes[self._part] += size
        self._total += size
        if self._total > self._peak:
            self._peak = self._total
            self.at_peak = dict(self._bytes)
        weakref.finalize(storage, self._remove, key, size, self._part)

    def _remove(self, key: int, size: int, part: str) -> None:
        self._alive.discard(key)
        self._bytes[part] -= size
        self._total -= size


def all_positions(func: Any, args: Any) -> Tensor | None:
    """`mask.nonzero()` as if the mask were all true: without data its size is not known."""
    if func is not torch.ops.aten.nonzero.default or not isinstance(args[0], FakeTensor):
        return None
    (mask,) = args
    result: Tensor = mask.new_empty((mask.numel(), mask.dim()), dtype=torch.long)
    return result


def make_fake(module: nn.Module) -> None:
    """Turn parameters and buffers on the meta device into fake ones on the CPU, keeping ties."""
    fakes: dict[int, Tensor] = {}
    for inner in module.modules():
        for held in (inner._parameters, inner._buffers):
            for name, value in held.items():
                if value is None:
                    continue
                if id(value) not in fakes:
                    empty = torch.empty(value.shape, dtype=value.dtype)
                    if isinstance(value, nn.Parameter):
                        empty = nn.Parameter(empty, requires_grad=value.requires_grad)
                    fakes[id(value)] = empty
                held[name] = fakes[id(value)]  # type: ignore[assignment]

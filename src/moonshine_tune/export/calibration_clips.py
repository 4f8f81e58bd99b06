"""Second moments of the inputs of a model's matrices, for rounding that compensates its errors."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from moonshine_tune.models.base import SpeechModel
from moonshine_tune.runtime.quantized import Doubles


class InputMoments:
    """Sums of x xᵀ over the inputs x of each matrix, while the model runs."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, name: str, inputs: torch.Tensor) -> None:
        """Count inputs [..., in]."""
        # In 64 bits on the CPU: some devices have none, and small inputs must not be lost.
        rows = inputs.detach().reshape(-1, inputs.shape[-1]).to("cpu", torch.float64)
        if name not in self._sums:
            self._sums[name] = rows.new_zeros(rows.shape[1], rows.shape[1])
        self._sums[name].addmm_(rows.T, rows)

    def matrices(self) -> dict[str, Doubles]:
        """[in, in] for each matrix that was used, by its `….weight` name."""
        return {name: total.numpy() for name, total in self._sums.items()}


@contextmanager
def input_moments(model: SpeechModel, weights: Sequence[str]) -> Iterator[InputMoments]:
    """Collect moments for matrices named `….weight` while the block runs the model."""
    modules = dict(model.module.named_modules())
    moments = InputMoments()

    def listener(name: str) -> Callable[[Any, tuple[Any, ...], Any], None]:
        def listen(_module: Any, arguments: tuple[Any, ...], _output: Any) -> None:
            moments.add(name, arguments[0])

        return listen

    hooks = [
        modules[name.removesuffix(".weight")].register_forward_hook(listener(name))
        for name in weights
    ]
    try:
        yield moments
    finally:
        for hook in hooks:
            hook.remove()

"""Second moments of what an adapter's layers read, and an adapter that leaves some inputs alone."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.lora import ADAPTER_NAME

_DOWN = f".lora_A.{ADAPTER_NAME}.weight"
# Share of the mean variance that is added to each direction: none has exactly zero.
_FLOOR = 1e-4


class InputCovariance:
    """The mean of x xᵀ over the input rows x of each layer that has a LoRA matrix.

    Attributes:
        sums: Σ x xᵀ [in, in] by the full name of the layer's matrix A, in 32 bits on the CPU.
        rows: number of rows by the same name.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.rows: dict[str, int] = {}
        # Queries, keys and values read one tensor: its product is computed once.
        self._last: tuple[Tensor, Tensor] | None = None

    @contextmanager
    def collect(self, model: SpeechModel) -> Iterator[None]:
        """Add the inputs of all forward passes inside the block."""
        with ExitStack() as stack:
            for name, layer in model.module.named_modules():
                if ADAPTER_NAME in getattr(layer, "lora_A", {}):
                    hook = layer.register_forward_pre_hook(self._hook(name + _DOWN))
                    stack.callback(hook.remove)
            yield
        self._last = None

    def mean(self, name: str) -> Tensor:
        """Mean of x xᵀ of a layer [in, in], in 64 bits."""
        return self.sums[name].double() / self.rows[name]

    def _hook(self, name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def add(_layer: Any, arguments: tuple[Any, ...]) -> None:
            values: Tensor = arguments[0].detach()
            if self._last is None or self._last[0].data_ptr() != values.data_ptr():
                rows = values.reshape(-1, values.shape[-1]).float()
                self._last = (values, (rows.T @ rows).to("cpu"))
            product = self._last[1]
            self.sums[name] = self.sums[name] + product if name in self.sums else product
            self.rows[name] = self.rows.get(name, 0) + values.shape[:-1].numel()

        return add


def filtered(
    state: Mapping[str, Tensor], domain: InputCovariance, general: InputCovariance, weight: float
) -> dict[str, Tensor]:
    """The adapter without what it does to general inputs and the domain's do not need.

    Of all changes B·A′ it is the one with the least E‖B(A′ − A)x‖² over the domain's inputs plus
    `weight` · E‖B A′ x‖² over general ones: A′ = A C (C + weight · G)⁻¹ with their second moments C
    and G. Directions that only the domain has stay as they are, those that only general speech has
    go, and what both have alike is divided by 1 + weight.

    Args:
        state: parameters by name, as of `adapter_state`.
    """
    result = dict(state)
    for name in domain.sums:
        own, spared = domain.mean(name), general.mean(name)
        floor = _FLOOR * float(own.diagonal().mean())
        total = own + weight * spared + floor * torch.eye(len(own), dtype=own.dtype)
        down = state[name].double() @ own
        result[name] = torch.linalg.solve(total, down.T).T.to(state[name].dtype).contiguous()
    return result

"""Frozen linear layers through oneDNN on the CPU, forwards and back.

torch hands 32-bit products on x86 to MKL, which takes slower paths on processors that are not
Intel's: 115 to 170 GFLOP/s on two cores of an AMD EPYC where oneDNN's kernel reaches 180 to 215 on
the very same matrices, in place. In 16 bits torch calls oneDNN by itself.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def is_for_onednn(weight: Any) -> bool:
    """Whether there is such a kernel for a weight on the CPU, in this torch."""
    return (
        isinstance(weight, Tensor)
        and weight.ndim == 2
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and bool(torch._C._has_mkldnn)
        # Not promised by torch: its compiler calls them.
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def frozen_product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows [..., in] · Wᵀ + bias, of a weight [out, in] and a bias that do not train."""
    if not _takes_onednn(rows, weight):
        return F.linear(rows, weight, bias)
    if torch.is_grad_enabled() and rows.requires_grad:
        product: Tensor = _FrozenProduct.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
        return product
    return onednn_product(rows, weight, bias)


def product_without_graph(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`frozen_product` for a function that has a gradient of its own."""
    product = onednn_product if _takes_onednn(rows, weight) else F.linear
    return product(rows, weight, bias)


def _takes_onednn(rows: Tensor, weight: Tensor) -> bool:
    same = rows.dtype == weight.dtype and not torch.is_autocast_enabled("cpu")
    return same and is_for_onednn(weight)


def onednn_product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """rows [..., in] · Wᵀ + bias without a graph; the weight as it is, or laid out."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


class _FrozenProduct(torch.autograd.Function):
    """The gradient of the rows alone. Price: gradients of gradients are not defined."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return onednn_product(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return onednn_product(upstream[0], weight.T, None), None, None


class FrozenLinear(nn.Linear):
    """A linear layer for a weight that may be frozen; one that trains is torch's own."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        if self.weight.requires_grad:
            return super().forward(input)
        return frozen_product(input, self.weight, self.bias)


def use_frozen_linear(module: nn.Module) -> None:
    """Make every plain linear layer in `module` a `FrozenLinear`, in place."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = FrozenLinear

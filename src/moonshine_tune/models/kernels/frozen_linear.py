"""Frozen linear layers through oneDNN on the CPU, forward and backward.

torch uses MKL for 32-bit products on x86, which is slower on processors that are not Intel's: 115
to 170 GFLOP/s on two cores of an AMD EPYC, where oneDNN's kernel reaches 180 to 215 on the same
matrices. In 16 bits torch itself calls oneDNN.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def is_for_onednn(weight: Any) -> bool:
    """Whether oneDNN has a kernel for the weight in this torch: 32 bits, on the CPU."""
    return (
        isinstance(weight, Tensor)
        and weight.ndim == 2
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and bool(torch._C._has_mkldnn)
        # Not a public API of torch; its compiler calls them.
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def frozen_product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows [..., in] · Wᵀ + bias, with a weight [out, in] and a bias that do not train."""
    if not _takes_onednn(rows, weight):
        return F.linear(rows, weight, bias)
    if torch.is_grad_enabled() and rows.requires_grad:
        product: Tensor = _FrozenProduct.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
        return product
    return onednn_product(rows, weight, bias)


def product_without_graph(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`frozen_product` for use inside an autograd function."""
    product = onednn_product if _takes_onednn(rows, weight) else F.linear
    return product(rows, weight, bias)


def back_product(upstream: Tensor, weight: Tensor) -> Tensor:
    """Gradient upstream [..., out] · W → gradient of the rows [..., in], without a graph.

    Only oneDNN gets the transposed weight: on MPS, torch 2.8 reads a transposed weight of
    `F.linear` as if it were not, and later versions take a slower path for it.
    """
    if _takes_onednn(upstream, weight):
        return onednn_product(upstream, weight.T, None)
    return upstream @ weight


def _takes_onednn(rows: Tensor, weight: Tensor) -> bool:
    same = rows.dtype == weight.dtype and not torch.is_autocast_enabled("cpu")
    return same and is_for_onednn(weight)


def onednn_product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """rows [..., in] · Wᵀ + bias without a graph; the weight may be prepacked."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


class _FrozenProduct(torch.autograd.Function):
    """Only the rows get a gradient. Price: second derivatives are not defined."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return onednn_product(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return onednn_product(upstream[0], weight.T, None), None, None


class FrozenLinear(nn.Linear):
    """A linear layer that uses `frozen_product` if its weight is frozen, else torch's product."""

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

"""Linear layers in the layout of the CPU's matrix kernels, for weights read again and again.

With a few rows, torch's own product reads a matrix at a fraction of the memory's speed. oneDNN's
kernel on a weight that was laid out for it once takes half to a third of the time: 3.4 instead of
9.2 ms for the output head of tiny with 29 rows, 7.2 instead of 21.5 ms for that of medium. An
adapter is added to the weight on the way, which saves its three products a layer. Price: a copy of
the decoder's weights while a batch is decoded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from moonshine_tune.merged import effective_weight

Linear = Callable[[Tensor], Tensor]


def packed(module: nn.Module) -> Linear:
    """A linear layer with its adapter, for inference, as the fastest call that is at hand.

    That is the module itself where it is no linear layer, where somebody listens to it through a
    hook, or where there is no such kernel: other devices and number formats.
    """
    layer: Any = getattr(module, "base_layer", module)
    weight = getattr(layer, "weight", None)
    if not can_be_laid_out(weight) or module._forward_hooks or module._forward_pre_hooks:
        return module
    return product_with(effective_weight(module), getattr(layer, "bias", None))


def product_with(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """rows [..., in] → rows · Wᵀ + bias, with a copy of W [out, in] that is laid out for it.

    Without a graph: whoever wants gradients makes them. For weights that `can_be_laid_out`.
    """
    if isinstance(weight, FakeTensor):
        # The memory estimate: there are no numbers to lay out, but the copy takes room.
        copied = weight.clone()
        return lambda rows: F.linear(rows, copied, bias)
    laid = torch.ops.mkldnn._reorder_linear_weight(weight)

    def multiply(rows: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, laid, bias, "none", [], "")
        return product

    return multiply


def can_be_laid_out(weight: Any) -> bool:
    """Whether there is such a kernel for a weight: 32 bits, on the CPU, in this torch."""
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

"""Linear layers in the layout of the CPU's matrix kernels, for weights read at every token.

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
    if not _can_be_packed(weight) or module._forward_hooks or module._forward_pre_hooks:
        return module
    merged = effective_weight(module)
    bias = getattr(layer, "bias", None)
    if isinstance(weight, FakeTensor):
        # The memory estimate: there are no numbers to lay out, but the copy takes room.
        merged = merged.clone()
        return lambda rows: F.linear(rows, merged, bias)
    laid = torch.ops.mkldnn._reorder_linear_weight(merged)

    def multiply(rows: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, laid, bias, "none", [], "")
        return product

    return multiply


def _can_be_packed(weight: Any) -> bool:
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

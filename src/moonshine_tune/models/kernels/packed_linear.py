"""Linear layers in the layout of the CPU's matrix kernels, for weights read again and again.

With a few rows, torch's own product reads a matrix at a fraction of the memory's speed. oneDNN's
kernel on a weight that was laid out for it once takes half to a third of the time: 3.4 instead of
9.2 ms for the output head of tiny with 29 rows, 7.2 instead of 21.5 ms for that of medium. An
adapter is added to the weight on the way, which saves its three products a layer. Price: a copy of
the decoder's weights while a batch is decoded.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from moonshine_tune.models.kernels.frozen_linear import is_for_onednn, onednn_product
from moonshine_tune.models.merge import effective_weight

Linear = Callable[[Tensor], Tensor]


def packed(module: nn.Module) -> Linear:
    """A linear layer with its adapter, for inference, as the fastest call that is at hand.

    That is the module itself where it is no linear layer, where somebody listens to it through a
    hook, or where there is no such kernel: other devices; nor in 16 bits, whose steps an adapter
    that is added to the weight would be rounded to.
    """
    if not _can_be_packed(module):
        return module
    return _laid_out(effective_weight(module), getattr(_base(module), "bias", None))


def packed_together(modules: Sequence[nn.Module]) -> Callable[[Tensor], Sequence[Tensor]]:
    """Linear layers that read the same rows as one product: a small one costs mostly its call."""
    joint = all(_can_be_packed(module) for module in modules)
    if not joint or any(getattr(_base(module), "bias", None) is not None for module in modules):
        return side_by_side([packed(module) for module in modules])
    weights = [effective_weight(module) for module in modules]
    together = _laid_out(torch.cat(weights), None)
    sizes = [len(weight) for weight in weights]
    return lambda rows: torch.split(together(rows), sizes, dim=-1)


def side_by_side(layers: Sequence[Linear]) -> Callable[[Tensor], Sequence[Tensor]]:
    """Layers that read the same rows, each by itself."""
    return lambda rows: [layer(rows) for layer in layers]


def _can_be_packed(module: nn.Module) -> bool:
    weight: Any = getattr(_base(module), "weight", None)
    listened = module._forward_hooks or module._forward_pre_hooks
    return not listened and is_for_onednn(weight)


def _base(module: nn.Module) -> Any:
    return getattr(module, "base_layer", module)


def _laid_out(weight: Tensor, bias: Tensor | None) -> Linear:
    """rows [..., in] → rows · Wᵀ + bias, with a copy of W [out, in] that is laid out for it."""
    if isinstance(weight, FakeTensor):
        # The memory estimate: there are no numbers to lay out, but the copy takes room.
        copied = weight.clone()
        return lambda rows: F.linear(rows, copied, bias)
    laid = torch.ops.mkldnn._reorder_linear_weight(weight)
    return lambda rows: onednn_product(rows, laid, bias)

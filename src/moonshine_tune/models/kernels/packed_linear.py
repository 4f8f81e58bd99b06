"""Linear layers for decoding: with prepacked weights on the CPU, merged where kernels cost.

For a few rows, torch's product reads the weight at a fraction of the memory's bandwidth. oneDNN's
kernel with a prepacked weight takes half to a third of the time: 3.4 instead of 9.2 ms for the
output head of tiny with 29 rows, 7.2 instead of 21.5 ms for medium's. Packing merges the adapter
into the weight, which saves its three products per layer: on Apple's GPU that is the whole gain.
Price: a copy of the decoder's weights while a batch is decoded.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from moonshine_tune.core.device import is_launch_bound
from moonshine_tune.models.kernels.frozen_linear import is_for_onednn, onednn_product
from moonshine_tune.models.merge import effective_weight

Linear = Callable[[Tensor], Tensor]


def packed(module: nn.Module) -> Linear:
    """The fastest inference call of a linear layer with its adapter.

    It is the module itself if that is not a linear layer, has hooks, is on another device, or has
    16-bit weights, where merging would round the adapter.
    """
    if not _can_be_packed(module):
        return module
    return _prepacked(effective_weight(module), getattr(_base(module), "bias", None))


def packed_together(modules: Sequence[nn.Module]) -> Callable[[Tensor], Sequence[Tensor]]:
    """One product for linear layers with the same input; small ones cost mostly their calls."""
    joint = all(_can_be_packed(module) for module in modules)
    if not joint or any(getattr(_base(module), "bias", None) is not None for module in modules):
        return side_by_side([packed(module) for module in modules])
    weights = [effective_weight(module) for module in modules]
    joint_layer = _prepacked(torch.cat(weights), None)
    sizes = [len(weight) for weight in weights]
    return lambda rows: torch.split(joint_layer(rows), sizes, dim=-1)


def side_by_side(layers: Sequence[Linear]) -> Callable[[Tensor], Sequence[Tensor]]:
    """Layers with the same input, one call each."""
    return lambda rows: [layer(rows) for layer in layers]


def _can_be_packed(module: nn.Module) -> bool:
    weight: Any = getattr(_base(module), "weight", None)
    hooked = module._forward_hooks or module._forward_pre_hooks
    return not hooked and (is_for_onednn(weight) or _can_be_merged(weight))


def _can_be_merged(weight: Any) -> bool:
    is_full = isinstance(weight, Tensor) and weight.ndim == 2 and weight.dtype == torch.float32
    return is_full and is_launch_bound(weight.device)


def _base(module: nn.Module) -> Any:
    return getattr(module, "base_layer", module)


def _prepacked(weight: Tensor, bias: Tensor | None) -> Linear:
    """rows [..., in] → rows · Wᵀ + bias, with a copy of W [out, in], prepacked on the CPU."""
    if is_launch_bound(weight.device):
        return lambda rows: F.linear(rows, weight, bias)
    if isinstance(weight, FakeTensor):
        # In the memory estimate there is no data to pack, but the copy takes memory.
        copied = weight.clone()
        return lambda rows: F.linear(rows, copied, bias)
    reordered = torch.ops.mkldnn._reorder_linear_weight(weight)
    return lambda rows: onednn_product(rows, reordered, bias)

"""A linear layer whose own matrix trains, beside the frozen one of the base."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moonshine_tune.models.kernels.frozen_linear import frozen_product

FULL_WEIGHT = "full_weight"
"""Name of the matrix that trains, behind the layer's own."""


class FullLinear(nn.Module):
    """Computes with a matrix of its own instead of that of the layer that it replaces.

    The matrix starts as the base's, in 32 bits whatever the format of the base. The base's stays,
    for the teacher and for strengths between both. Rows of 16 bits are multiplied in 16 bits, and
    the gradient is added up in 32.

    Args:
        layer: a linear layer; its bias stays frozen.

    Attributes:
        disable_adapters: compute with the base's matrix.
        scale: of the difference between both matrices: 0 is the base, 1 the trained one.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        start = layer.weight.detach().to(torch.float32, copy=True)
        self.full_weight = nn.Parameter(start)
        self.disable_adapters = False
        self.scale = 1.0

    @property
    def weight(self) -> Tensor:
        """The base's matrix, [out, in], as of other linear layers."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The base's bias."""
        return cast(Tensor | None, self.base_layer.bias)

    def get_base_layer(self) -> nn.Linear:
        """The layer that this one replaced."""
        return self.base_layer

    def enable_adapters(self, enabled: bool) -> None:
        """Compute with the trained matrix, or with the base's."""
        self.disable_adapters = not enabled

    def effective_weight(self) -> Tensor:
        """The matrix that the layer computes with, [out, in], in 32 bits."""
        if self.disable_adapters:
            return self.weight.float()
        if self.scale == 1.0:
            return self.full_weight
        return torch.lerp(self.weight.float(), self.full_weight, self.scale)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        if self.disable_adapters:
            return cast(Tensor, self.base_layer(rows))
        weight = self.effective_weight()
        if not torch.is_autocast_enabled(rows.device.type):
            weight = weight.to(rows.dtype)
        product: Any = F.linear if weight.requires_grad else frozen_product
        return cast(Tensor, product(rows, weight, self.bias))

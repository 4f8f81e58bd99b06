"""Weights with the adapter merged in, as files and runtimes store them."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.kernels.full_linear import FullLinear
from moonshine_tune.models.lora import ADAPTER_NAME


@torch.no_grad()
def merged_weights(model: SpeechModel) -> dict[str, Tensor]:
    """Merged weights of all adapted layers, [out, in] in 32 bits, by `….weight` name."""
    return dict(LazyMerged(model))


def base_weight(module: Any) -> Tensor:
    """A linear layer's weight without any adapter, in 32 bits; not a copy if it already is."""
    return cast(Tensor, getattr(module, "base_layer", module).weight.detach().float())


@torch.no_grad()
def effective_weight(module: Any) -> Tensor:
    """A linear layer's weight with its adapter merged in, in 32 bits.

    An adapter that is switched off has no effect.
    """
    if isinstance(module, FullLinear):
        return module.effective_weight().detach()
    weight = base_weight(module)
    if ADAPTER_NAME not in getattr(module, "lora_A", {}) or module.disable_adapters:
        return weight
    weight = weight + module.get_delta_weight(ADAPTER_NAME).float()
    if ADAPTER_NAME in module.lora_magnitude_vector:
        magnitudes = module.lora_magnitude_vector[ADAPTER_NAME].weight.detach().float()
        weight = weight * (magnitudes / weight.norm(dim=1))[:, None]
    return cast(Tensor, weight)


class LazyMerged(Mapping[str, Tensor]):
    """`merged_weights`, each computed at its lookup: all of medium's take half a gigabyte."""

    def __init__(self, model: SpeechModel) -> None:
        self._modules = {
            f"{name}.weight": module
            for name, module in model.module.named_modules()
            if isinstance(module, FullLinear) or ADAPTER_NAME in getattr(module, "lora_A", {})
        }

    def __getitem__(self, name: str) -> Tensor:
        return effective_weight(self._modules[name])

    def base(self, name: str) -> Tensor:
        """The weight without the adapter, in 32 bits; not a copy if it already is."""
        return base_weight(self._modules[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

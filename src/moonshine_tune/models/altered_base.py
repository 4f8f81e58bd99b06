"""PiSSA and OLoRA adapters as plain LoRA on the unaltered base.

Both start from a part of the base: W = W' + s B₀ A₀ is exact at the first step, and the adapter
trains on W'. The trained model is W' + s B A = W + s (B A − B₀ A₀), which is plain LoRA of twice
the rank. Unlike PEFT, which alters the base's weights in place, the base without the adapter stays
the base. PiSSA: https://arxiv.org/abs/2404.02948, OLoRA: https://arxiv.org/abs/2406.01775
"""

import math
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def keep_base(layer: Any, name: str, start: str) -> None:
    """Turn the adapter `name` of a PEFT linear layer into plain LoRA, in place.

    Args:
        start: "pissa" or "olora".
    """
    down, up = layer.lora_A[name], layer.lora_B[name]
    rank, scaling = layer.r[name], layer.scaling[name]
    first_down, first_up = _first_product(layer.base_layer.weight.float(), rank, scaling, start)
    down.weight = nn.Parameter(torch.cat([down.weight, first_down]), requires_grad=False)
    up.weight = nn.Parameter(torch.cat([up.weight, -first_up], dim=1), requires_grad=False)
    down.out_features = up.in_features = layer.r[name] = 2 * rank
    layer.lora_alpha[name] *= math.sqrt(2) if layer.use_rslora[name] else 2


def _first_product(weight: Tensor, rank: int, scaling: float, start: str) -> tuple[Tensor, Tensor]:
    """A₀ and B₀ of a weight [out, in], as PEFT initializes them."""
    if start == "olora":
        orthogonal, upper = torch.linalg.qr(weight)
        return upper[:rank], orthogonal[:, :rank]
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    roots = (values[:rank] / scaling).sqrt()
    return roots[:, None] * right[:rank], left[:, :rank] * roots


def double_rank(config: Any) -> None:
    """Change PEFT's configuration in the same way, so that the adapter can be saved."""
    factor = math.sqrt(2) if config.use_rslora else 2
    config.init_lora_weights = True
    config.r *= 2
    config.lora_alpha *= factor
    config.rank_pattern = {key: 2 * value for key, value in config.rank_pattern.items()}
    config.alpha_pattern = {key: factor * value for key, value in config.alpha_pattern.items()}

"""The decoder's cross-attention to frozen encoder frames, without computing keys and values.

Attention needs the products q · (K x) and p · (V x) of a query q and probabilities p with every
frame x. If the frames get no gradient, they equal (q K) · x and (p x) · Vᵀ, on the frames
themselves. A transcript has fewer tokens than the audio has frames, so this is a third of the work
for short phrases and two thirds for long sentences, and no layer keeps keys and values for the
backward pass. An adapter of K or V is a second, narrow pair of products: its A maps each frame to r
numbers.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from moonshine_tune.models.base import additive_mask
from moonshine_tune.models.kernels.frozen_linear import FrozenLinear
from moonshine_tune.models.kernels.full_linear import FullLinear
from moonshine_tune.models.kernels.lora_linear import plain_adapter
from moonshine_tune.models.kernels.override import patch_forward

# Above this ratio keys and values are less work, because each head reads frames of full width.
_MOST_SHARE = 0.75


def use_frames_directly(module: Any) -> None:
    """Patch the cross-attention of a transformers model's decoder layers."""
    for layer in module.model.decoder.layers:
        patch_forward(_FrameAttention, layer.encoder_attn)


class _FrameAttention(nn.Module):
    """Patches an attention of transformers, whose own forward handles every other case."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: Any = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        key_value_states: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """[B, L, W] → the same, and attention weights if transformers computes them."""
        if (
            key_value_states is not None
            # A cache of keys and values needs transformers' own ones.
            and past_key_values is None
            and _is_supported(self, hidden_states, key_value_states)
        ):
            return self._attend(hidden_states, attention_mask, key_value_states), None
        result: tuple[Tensor, Tensor | None] = super().forward(
            hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            key_value_states=key_value_states,
            **options,
        )
        return result

    def _attend(self, hidden: Tensor, mask: Tensor | None, frames: Tensor) -> Tensor:
        attention: Any = self
        rows, length, _ = hidden.shape
        query = attention.q_proj(hidden).view(rows, length, -1, attention.head_dim)
        query = query * attention.scaling
        frames = frames.to(query.dtype)
        keys = _parts(attention.k_proj, query, frames)
        scores = reduce(torch.add, [part.scores(query) for part in keys])
        if mask is not None:
            scores = scores + _added(mask)
        probabilities = scores.softmax(dim=-1)
        values = _parts(attention.v_proj, query, frames)
        mixed = reduce(torch.add, [part.mixed(probabilities) for part in values])
        result: Tensor = attention.o_proj(mixed.to(query.dtype).reshape(rows, length, -1))
        return result


@dataclass(frozen=True)
class _Part:
    """A product for keys or values: `frames` [B, T, W] and `weight` [heads, d, W]."""

    frames: Tensor
    weight: Tensor

    def scores(self, query: Tensor) -> Tensor:
        """[B, L, heads, d] → [B, heads · L, T] in 32 bits."""
        wide = _spread(query.to(self.weight.dtype), self.weight)
        return torch.bmm(wide, self.frames.transpose(1, 2)).float()

    def mixed(self, probabilities: Tensor) -> Tensor:
        """[B, heads · L, T] → [B, L, heads, d]."""
        return _gather(torch.bmm(probabilities.to(self.frames.dtype), self.frames), self.weight)


def _parts(layer: Any, query: Tensor, frames: Tensor) -> list[_Part]:
    """The matrix of a layer, and its adapter if one is switched on."""
    shape = (query.shape[2], query.shape[3], -1)
    base = getattr(layer, "base_layer", layer)
    if isinstance(layer, FullLinear):
        return [_Part(frames, layer.effective_weight().to(query.dtype).view(shape))]
    parts = [_Part(frames, base.weight.to(query.dtype).view(shape))]
    name = plain_adapter(layer) if base is not layer else None
    if name is not None:
        down, up = layer.lora_A[name], layer.lora_B[name]
        narrow = down(layer.lora_dropout[name](frames.to(down.weight.dtype)))
        parts.append(_Part(narrow * layer.scaling[name], up.weight.to(narrow.dtype).view(shape)))
    return parts


def _is_supported(attention: Any, hidden: Tensor, frames: Tensor) -> bool:
    ratio = hidden.shape[1] / frames.shape[1] + hidden.shape[1] / attention.head_dim
    return (
        ratio < _MOST_SHARE
        and not frames.requires_grad
        and attention.num_key_value_groups == 1
        and not (attention.training and attention.attention_dropout)
        and _is_simple(attention.k_proj)
        and _is_simple(attention.v_proj)
    )


def _is_simple(layer: Any) -> bool:
    """Whether it is a matrix without bias and hooks: fully tuned, or frozen with at most one
    plain LoRA adapter.
    """
    base = getattr(layer, "base_layer", layer)
    if not isinstance(base, FrozenLinear) or base.bias is not None or base.weight.requires_grad:
        return False
    if any(part._forward_hooks or part._forward_pre_hooks for part in (layer, base)):
        return False
    if base is layer or isinstance(layer, FullLinear):
        return True
    return not layer.merged and (layer.disable_adapters or plain_adapter(layer) is not None)


def _added(mask: Tensor) -> Tensor:
    """Mask [B, 1, L, T], equal for all tokens → [B, 1, T] in 32 bits, added to the scores."""
    mask = mask[:, 0, :1]
    return additive_mask(mask, torch.float32) if mask.dtype == torch.bool else mask.float()


def _spread(narrow: Tensor, weight: Tensor) -> Tensor:
    """[B, L, heads, d] times each head's weight [heads, d, W] → [B, heads · L, W]."""
    rows, length, heads, width = narrow.shape
    wide = torch.bmm(narrow.permute(2, 0, 1, 3).reshape(heads, rows * length, width), weight)
    return wide.view(heads, rows, length, -1).transpose(0, 1).reshape(rows, heads * length, -1)


def _gather(wide: Tensor, weight: Tensor) -> Tensor:
    """[B, heads · L, W] times each head's transposed weight → [B, L, heads, d]."""
    rows, heads = len(wide), len(weight)
    by_head = wide.view(rows, heads, -1, wide.shape[2]).transpose(0, 1)
    length = by_head.shape[2]
    narrow = torch.bmm(by_head.reshape(heads, rows * length, -1), weight.transpose(1, 2))
    return narrow.view(heads, rows, length, -1).permute(1, 2, 0, 3)

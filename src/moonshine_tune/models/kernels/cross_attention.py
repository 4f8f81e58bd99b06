"""The decoder's attention to frozen frames, without making keys and values of them.

A query meets a key q · (K x) and a value's share p · (V x). Where the frames x get no gradient, K
and V can go to the other side: (q K) · x and (p x) · Vᵀ, with the frames as they are. A text has
fewer tokens than the audio has frames, so that is a third of the work for short phrases and two
thirds for long sentences, and no layer keeps keys and values for the backward pass. An adapter of
K or V is a second, narrow pair of the same kind: its A makes r numbers of each frame.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from moonshine_tune.models.kernels.attention import OwnAttention, additive_mask
from moonshine_tune.models.kernels.frozen_linear import FrozenLinear
from moonshine_tune.models.kernels.lora_linear import plain_adapter
from moonshine_tune.models.kernels.override import patch_forward

# Above it the work is more than that of keys and values: each head reads the frames' whole width.
_MOST_SHARE = 0.75


def use_frames_directly(module: Any) -> None:
    """Let the decoder layers of a transformers model attend like that wherever they can."""
    for layer in module.model.decoder.layers:
        patch_forward(_FrameAttention, layer.encoder_attn)


class _FrameAttention(OwnAttention):
    def attend(
        self,
        hidden: Tensor,
        positions: Any,
        mask: Tensor | None,
        frames: Tensor | None,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None] | None:
        attention: Any = self
        if frames is None or not _is_for(attention, hidden, frames):
            return None
        rows, length, _ = hidden.shape
        query = attention.q_proj(hidden).view(rows, length, -1, attention.head_dim)
        query = query * attention.scaling
        frames = frames.to(query.dtype)
        keys = _parts(attention.k_proj, query, frames)
        scores = reduce(torch.add, [part.scores(query) for part in keys])
        if mask is not None:
            scores = scores + _added(mask)
        shares = scores.softmax(dim=-1)
        values = _parts(attention.v_proj, query, frames)
        mixed = reduce(torch.add, [part.mixed(shares) for part in values])
        return attention.o_proj(mixed.to(query.dtype).reshape(rows, length, -1)), None


@dataclass(frozen=True)
class _Part:
    """A product that would make keys or values: `frames` [B, T, W], `weight` [heads, d, W]."""

    frames: Tensor
    weight: Tensor

    def scores(self, query: Tensor) -> Tensor:
        """[B, L, heads, d] → [B, heads · L, T] in 32 bits."""
        wide = _spread(query.to(self.weight.dtype), self.weight)
        return torch.bmm(wide, self.frames.transpose(1, 2)).float()

    def mixed(self, shares: Tensor) -> Tensor:
        """[B, heads · L, T] → [B, L, heads, d]."""
        return _gather(torch.bmm(shares.to(self.frames.dtype), self.frames), self.weight)


def _parts(layer: Any, query: Tensor, frames: Tensor) -> list[_Part]:
    """The frozen matrix of a layer, and its adapter's where it has one that is switched on."""
    shape = (query.shape[2], query.shape[3], -1)
    base = getattr(layer, "base_layer", layer)
    parts = [_Part(frames, base.weight.to(query.dtype).view(shape))]
    name = plain_adapter(layer) if base is not layer else None
    if name is not None:
        down, up = layer.lora_A[name], layer.lora_B[name]
        narrow = down(layer.lora_dropout[name](frames.to(down.weight.dtype)))
        parts.append(_Part(narrow * layer.scaling[name], up.weight.to(narrow.dtype).view(shape)))
    return parts


def _is_for(attention: Any, hidden: Tensor, frames: Tensor) -> bool:
    share = hidden.shape[1] / frames.shape[1] + hidden.shape[1] / attention.head_dim
    return (
        share < _MOST_SHARE
        and not frames.requires_grad
        and attention.num_key_value_groups == 1
        and not (attention.training and attention.attention_dropout)
        and _is_simple(attention.k_proj)
        and _is_simple(attention.v_proj)
    )


def _is_simple(layer: Any) -> bool:
    """Whether it is a frozen matrix, with LoRA's two or without, and nobody listens to it."""
    base = getattr(layer, "base_layer", layer)
    if not isinstance(base, FrozenLinear) or base.bias is not None or base.weight.requires_grad:
        return False
    if any(part._forward_hooks or part._forward_pre_hooks for part in (layer, base)):
        return False
    if base is layer:
        return True
    return not layer.merged and (layer.disable_adapters or plain_adapter(layer) is not None)


def _added(mask: Tensor) -> Tensor:
    """[B, 1, L, T], the same for every token → [B, 1, T] in 32 bits, to be added."""
    mask = mask[:, 0, :1]
    return additive_mask(mask, torch.float32) if mask.dtype == torch.bool else mask.float()


def _spread(narrow: Tensor, weight: Tensor) -> Tensor:
    """Each head's [B, L, heads, d] times its own weight [heads, d, W] → [B, heads · L, W]."""
    rows, length, heads, width = narrow.shape
    wide = torch.bmm(narrow.permute(2, 0, 1, 3).reshape(heads, rows * length, width), weight)
    return wide.view(heads, rows, length, -1).transpose(0, 1).reshape(rows, heads * length, -1)


def _gather(wide: Tensor, weight: Tensor) -> Tensor:
    """The way back: [B, heads · L, W] times the turned weights → [B, L, heads, d]."""
    rows, heads = len(wide), len(weight)
    by_head = wide.view(rows, heads, -1, wide.shape[2]).transpose(0, 1)
    length = by_head.shape[2]
    narrow = torch.bmm(by_head.reshape(heads, rows * length, -1), weight.transpose(1, 2))
    return narrow.view(heads, rows, length, -1).permute(1, 2, 0, 3)

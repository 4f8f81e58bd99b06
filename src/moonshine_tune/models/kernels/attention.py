"""Attention inside transformers' layers: windows in blocks, and 16 bits where they are slow.

Registered with transformers under names of its own, one for each of its kernels; what it has
nothing to add to goes on to that kernel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask
from transformers.modeling_utils import AttentionInterface
from transformers.models.moonshine.modeling_moonshine import eager_attention_forward

_PREFIX = "moonshine_tune_"
# Frames that share their keys. Fewer would read less beside their own window and copy more.
_BLOCK = 32
# With fewer frames the copies cost what the scores save: 192 are 4 seconds.
_LEAST_FRAMES = 192

_Attend = Callable[..., tuple[Tensor, Tensor | None]]


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where attention is allowed, the lowest number elsewhere; for eager and fused attention."""
    zero = torch.zeros((), dtype=dtype, device=allowed.device)
    return torch.where(allowed, zero, torch.finfo(dtype).min)


def use_own_attention(module: Any) -> None:
    """Put these functions around the kernel that a transformers model was made with."""
    name = str(module.config._attn_implementation)
    if name in _KERNELS:
        module.set_attn_implementation(_PREFIX + name)


def takes_blocks(config: Any, frames: int) -> bool:
    """Whether a model of that configuration takes `WindowBlocks` as a mask, and gains by it."""
    return str(config._attn_implementation).startswith(_PREFIX) and frames >= _LEAST_FRAMES


class OwnAttention(nn.Module):
    """Goes in front of an attention of transformers, which does what `attend` leaves to it."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: Any = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        key_value_states: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As transformers calls it; what keeps a cache of keys is left to transformers."""
        if past_key_values is None:
            own = self.attend(
                hidden_states, position_embeddings, attention_mask, key_value_states, options
            )
            if own is not None:
                return own
        whole: tuple[Tensor, Tensor | None] = super().forward(
            hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            key_value_states=key_value_states,
            **options,
        )
        return whole

    def attend(
        self,
        hidden: Tensor,
        positions: Any,
        mask: Tensor | None,
        frames: Tensor | None,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None] | None:
        """[B, L, W] → the same and the shares, if they are at hand; None where it is not for this.

        Args:
            frames: what cross-attention reads; None in self-attention.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class WindowBlocks:
    """Attention to a window of frames, cut into blocks of queries: its price grows with the length.

    Whole, [T, T] scores are computed of which a row needs some twenty: 500 frames are 10 seconds.

    Attributes:
        before, after: frames that a frame sees beside itself.
        mask: [B · blocks, 1, block, before + block + after], added to the scores.
    """

    before: int
    after: int
    mask: Tensor

    @staticmethod
    def of(before: int, after: int, own: Tensor | None, like: Tensor) -> "WindowBlocks":
        """The blocks of a batch [B, T, W].

        Args:
            own: [B, T], true where a frame belongs to its clip; None where all do.
            like: the batch; gives device and number format too.
        """
        width = like.shape[1]
        count = -(-width // _BLOCK)
        query = torch.arange(_BLOCK, device=like.device)[:, None]
        key = torch.arange(-before, _BLOCK + after, device=like.device)[None, :]
        near = (key >= query - before) & (key <= query + after)
        there = like.new_ones(1, width, dtype=torch.bool) if own is None else own
        keys = _neighbourhoods(there[:, None, :, None], count, before, after)[..., 0]
        # A frame past its clip may look at itself, so that no row is fully masked.
        allowed = (near & keys) | (key == query)
        added = additive_mask(allowed, like.dtype)
        shape = (like.shape[0], count, _BLOCK, key.shape[1])
        return WindowBlocks(before, after, added.expand(shape).flatten(0, 1)[:, None])

    def attend(
        self,
        inner: _Attend,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        **options: Any,
    ) -> Tensor:
        """[B, heads, T, d] each → [B, T, heads, d]."""
        rows, heads, length, _ = query.shape
        count = len(self.mask) // rows
        query = F.pad(query, (0, 0, 0, count * _BLOCK - length))
        blocks = query.reshape(rows, heads, count, _BLOCK, -1).transpose(1, 2).flatten(0, 1)
        keys, values = (
            _neighbourhoods(item, count, self.before, self.after).flatten(0, 1)
            for item in (key, value)
        )
        mixed, _ = inner(module, blocks, keys, values, self.mask, **options)
        return mixed.reshape(rows, count * _BLOCK, heads, -1)[:, :length]


def _neighbourhoods(frames: Tensor, count: int, before: int, after: int) -> Tensor:
    """[B, heads, T, d] → [B, blocks, heads, before + block + after, d], zeros past the ends."""
    rest = count * _BLOCK - frames.shape[2]
    padded = F.pad(frames, (0, 0, before, rest + after))
    return padded.unfold(2, before + _BLOCK + after, _BLOCK).permute(0, 2, 1, 4, 3)


def _around(kernel: _Attend) -> _Attend:
    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(attention_mask, WindowBlocks):
            return attention_mask.attend(inner, module, query, key, value, **options), None
        return inner(module, query, key, value, attention_mask, **options)

    def inner(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        dtype = query.dtype
        slow = query.device.type == "cpu" and dtype.itemsize == 2 and torch.is_grad_enabled()
        if not slow:
            return kernel(module, query, key, value, mask, **options)
        # Backwards, torch's kernel for the CPU takes four times as long in 16 bits as in 32.
        if mask is not None and mask.is_floating_point():
            mask = mask.float()
        with torch.autocast("cpu", enabled=False):
            mixed, weights = kernel(
                module, query.float(), key.float(), value.float(), mask, **options
            )
        return mixed.to(dtype), weights

    return attend


_KERNELS: dict[str, tuple[_Attend, Callable[..., Any]]] = {
    "sdpa": (sdpa_attention_forward, sdpa_mask),
    "eager": (eager_attention_forward, eager_mask),
}
for _name, (_kernel, _mask) in _KERNELS.items():
    AttentionInterface.register(_PREFIX + _name, _around(_kernel))
    AttentionMaskInterface.register(_PREFIX + _name, _mask)

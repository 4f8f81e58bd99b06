"""Attention functions for transformers' layers: windows in blocks, and 32 bits where 16 are slow.

They are registered with transformers under their own names, one for each of its kernels, and call
that kernel.
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

from moonshine_tune.models.base import additive_mask

_PREFIX = "moonshine_tune_"
# Frames that share their keys. Smaller blocks read fewer keys outside the windows, but copy more.
_BLOCK = 32
# With fewer frames (192 are 4 seconds) the copies cost what the scores save.
_LEAST_FRAMES = 192

_Attend = Callable[..., tuple[Tensor, Tensor | None]]


def use_block_attention(module: Any) -> None:
    """Wrap the attention kernel of a transformers model."""
    name = str(module.config._attn_implementation)
    if name in _KERNELS:
        module.set_attn_implementation(_PREFIX + name)


def takes_blocks(config: Any, frames: int) -> bool:
    """Whether a model accepts `WindowBlocks` as a mask, and is faster with them."""
    return str(config._attn_implementation).startswith(_PREFIX) and frames >= _LEAST_FRAMES


@dataclass(frozen=True)
class WindowBlocks:
    """Sliding-window attention in blocks of queries: its cost is linear in the length.

    Full attention computes [T, T] scores of which each row needs about twenty; T is 500 for 10 s.

    Attributes:
        before, after: number of frames in the window before and after the query's own.
        mask: [B · blocks, 1, block, before + block + after], added to the scores.
    """

    before: int
    after: int
    mask: Tensor

    @staticmethod
    def of(before: int, after: int, own: Tensor | None, like: Tensor) -> "WindowBlocks":
        """The blocks of a batch.

        Args:
            own: [B, T], true where a frame belongs to its clip; None if all do.
            like: a batch [B, T, W]; the mask gets its device and number format.
        """
        width = like.shape[1]
        count = -(-width // _BLOCK)
        query = torch.arange(_BLOCK, device=like.device)[:, None]
        key = torch.arange(-before, _BLOCK + after, device=like.device)[None, :]
        near = (key >= query - before) & (key <= query + after)
        valid = like.new_ones(1, width, dtype=torch.bool) if own is None else own
        keys = _neighborhoods(valid[:, None, :, None], count, before, after)[..., 0]
        # A frame of padding attends to itself, so that no row is fully masked.
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
            _neighborhoods(item, count, self.before, self.after).flatten(0, 1)
            for item in (key, value)
        )
        mixed, _ = inner(module, blocks, keys, values, self.mask, **options)
        return mixed.reshape(rows, count * _BLOCK, heads, -1)[:, :length]


def _neighborhoods(frames: Tensor, count: int, before: int, after: int) -> Tensor:
    """[B, heads, T, d] → [B, blocks, heads, before + block + after, d], zeros beyond the ends."""
    rest = count * _BLOCK - frames.shape[2]
    padded = F.pad(frames, (0, 0, before, rest + after))
    return padded.unfold(2, before + _BLOCK + after, _BLOCK).permute(0, 2, 1, 4, 3)


def _wrapped(kernel: _Attend) -> _Attend:
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
        # The backward pass of torch's CPU kernel takes four times as long in 16 bits as in 32.
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
    AttentionInterface.register(_PREFIX + _name, _wrapped(_kernel))
    AttentionMaskInterface.register(_PREFIX + _name, _mask)

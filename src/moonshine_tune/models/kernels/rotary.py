"""Rotary positions in few kernels, for devices on which every kernel costs.

transformers rotates queries and keys apart and by slices of every second number, each of which has
a kernel to fill zeros and one to add up in the backward pass: 42 kernels a layer. Here a pair's
partners come from one flip, and both are rotated together: eight kernels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.moonshine.modeling_moonshine import (
    MoonshineAttention,
    eager_attention_forward,
)
from transformers.models.moonshine_streaming.modeling_moonshine_streaming import (
    MoonshineStreamingAttention,
)

from moonshine_tune.core.device import is_launch_bound
from moonshine_tune.models.kernels.override import patch_forward

_TABLES = "_full_head_tables"


def use_joint_rotary(module: Any) -> None:
    """Patch the self-attention of a transformers model's layers that have rotary positions."""
    for layer in (*module.model.encoder.layers, *module.model.decoder.layers):
        if isinstance(layer.self_attn, MoonshineAttention | MoonshineStreamingAttention):
            patch_forward(_SelfAttention, layer.self_attn)


class _SelfAttention(nn.Module):
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
        attention: Any = self
        if (
            is_launch_bound(hidden_states.device)
            and past_key_values is None
            and key_value_states is None
            and attention.num_key_value_groups == 1
            and not attention.head_dim_padding
        ):
            return self._attend(hidden_states, position_embeddings, attention_mask, **options)
        result: tuple[Tensor, Tensor | None] = super().forward(
            hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            key_value_states=key_value_states,
            **options,
        )
        return result

    def _attend(
        self, hidden: Tensor, positions: Any, mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        attention: Any = self
        rows, length, _ = hidden.shape
        query, key, value = (
            project(hidden).view(rows, length, -1, attention.head_dim).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        cos, sin = positions
        tables = _tables_of(cos, sin, attention.head_dim)
        query, key = _Rotation.apply(query, key, *tables)  # type: ignore[no-untyped-call]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            attention.config._attn_implementation, eager_attention_forward
        )
        mixed, weights = attend(
            attention,
            query,
            key,
            value,
            mask,
            dropout=attention.attention_dropout if attention.training else 0.0,
            scaling=attention.scaling,
            is_causal=attention.is_causal and mask is None and length > 1,
            **options,
        )
        result: Tensor = attention.o_proj(mixed.reshape(rows, length, -1))
        return result, weights


class _Rotation(torch.autograd.Function):
    """Queries and keys [B, heads, L, d], rotated; the factors get no gradient.

    Price: second derivatives are not defined.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        return torch.split(rotated(torch.cat((query, key)), cos, sin), len(query))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        # The transpose of a rotation turns back.
        query, key = rotated(torch.cat(upstream), *ctx.saved_tensors, back=True).chunk(2)
        return query, key, None, None


@torch.no_grad()
def _tables_of(cos: Tensor, sin: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """`rotary_tables`, once for all layers of a pass: kept on the tensor that they share."""
    if not hasattr(cos, _TABLES):
        setattr(cos, _TABLES, rotary_tables(cos, sin, head_dim))
    tables: tuple[Tensor, Tensor] = getattr(cos, _TABLES)
    return tables


def rotary_tables(cos: Tensor, sin: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Factors of a head's numbers and of their pair partners, [L, head_dim] each.

    Args:
        cos, sin: transformers' tables [1, L, rotated numbers], whose halves are equal.
    """
    num_pairs = cos.shape[-1] // 2
    rest = (0, head_dim // 2 - num_pairs)
    # Numbers past the rotated ones stay as they are.
    cos = F.pad(cos[0, :, :num_pairs], rest, value=1.0)
    sin = F.pad(sin[0, :, :num_pairs], rest)
    return cos.repeat_interleave(2, dim=-1), torch.stack((-sin, sin), dim=-1).flatten(-2)


def rotated(heads: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    """[..., head_dim], rotated by factors that fit its last dimensions.

    Args:
        back: by the opposite angle.
    """
    partners = heads.view(*heads.shape[:-1], -1, 2).flip(-1).flatten(-2)
    return torch.addcmul(heads * cos, partners, sin, value=-1.0 if back else 1.0)

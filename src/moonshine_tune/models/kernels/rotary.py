"""Rotary positions as one product a tensor, and self-attention that turns by them.

A position turns each pair of a head's numbers by an angle of its own. transformers does that to a
query and a key with sixteen small operations in every layer and copies both; as complex numbers it
is one product, in a tenth of the time, and backwards too.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.moonshine.modeling_moonshine import eager_attention_forward

from moonshine_tune.models.kernels.attention import OwnAttention
from moonshine_tune.models.kernels.override import patch_forward


@dataclass(frozen=True)
class RotaryTables:
    """What turns heads of one width [B, L, heads, d], at L places.

    Attributes:
        pairs: cosine + i · sine of each pair, [B or 1, L, 1, d / 2]; None where real numbers are
            the better way.
        cos, sin: [B or 1, L, 1, d]; a pair's first sine is negative.
    """

    pairs: Tensor | None
    cos: Tensor
    sin: Tensor

    @staticmethod
    def of(cos: Tensor, sin: Tensor, width: int) -> "RotaryTables":
        """From transformers' tables [B or 1, L, turned numbers], each of whose halves is whole.

        Args:
            width: numbers of a head; those past the turned ones stay as they are.
        """
        turned = cos.shape[-1] // 2
        rest = (0, width // 2 - turned)
        cos = F.pad(cos[..., :turned], rest, value=1.0)[..., None, :]
        sin = F.pad(sin[..., :turned], rest)[..., None, :]
        pairs = torch.complex(_wide(cos), _wide(sin)) if supports_complex(cos.device) else None
        return RotaryTables(
            pairs, cos.repeat_interleave(2, dim=-1), torch.stack((-sin, sin), dim=-1).flatten(-2)
        )

    def at(self, place: int) -> "RotaryTables":
        """Those of one place."""
        one = slice(place, place + 1)
        pairs = None if self.pairs is None else self.pairs[:, one]
        return RotaryTables(pairs, self.cos[:, one], self.sin[:, one])

    def turn(self, heads: Tensor) -> Tensor:
        """[B, L, heads, d] → the same, turned."""
        if self.pairs is None:
            swapped = _pairs(heads).flip(-1).flatten(-2)
            return torch.addcmul(heads * self.cos, swapped, self.sin)
        numbers = torch.view_as_complex(_pairs(_wide(heads)))
        return torch.view_as_real(numbers * self.pairs).flatten(-2).to(heads.dtype)


def _wide(values: Tensor) -> Tensor:
    """Complex numbers are made of 32 bits or more."""
    return values.float() if values.dtype.itemsize == 2 else values


def _pairs(heads: Tensor) -> Tensor:
    return heads.view(*heads.shape[:-1], -1, 2)


def supports_complex(device: torch.device) -> bool:
    """Whether complex products are at hand and fast: elsewhere they come and go with versions."""
    return device.type == "cpu"


class Positions(tuple[Tensor, Tensor]):
    """Cosines and sines as transformers hands them from layer to layer, and the turns once."""

    _turns: RotaryTables | None = None

    def turns(self, width: int) -> RotaryTables:
        """For the heads of all layers, which are of one width."""
        if self._turns is None:
            self._turns = RotaryTables.of(*self, width)
        return self._turns


def use_complex_positions(module: Any) -> None:
    """Let a transformers model's self-attention turn like that wherever it has positions."""
    for part in (module.model.encoder, module.model.decoder):
        if not hasattr(part, "rotary_emb"):
            continue
        patch_forward(_Rotary, part.rotary_emb)
        for layer in part.layers:
            patch_forward(_SelfAttention, layer.self_attn)


class _Rotary(nn.Module):
    """Goes in front of a rotary embedding of transformers."""

    def forward(self, *args: Any, **options: Any) -> Positions:
        return Positions(super().forward(*args, **options))


class _SelfAttention(OwnAttention):
    def attend(
        self,
        hidden: Tensor,
        positions: Any,
        mask: Tensor | None,
        frames: Tensor | None,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None] | None:
        attention: Any = self
        if frames is not None or not _is_for(attention, positions):
            return None
        rows, length, _ = hidden.shape
        query, key, value = (
            layer(hidden).view(rows, length, -1, attention.head_dim)
            for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        turns = positions.turns(attention.head_dim)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            attention.config._attn_implementation, eager_attention_forward
        )
        mixed, shares = attend(
            attention,
            turns.turn(query).transpose(1, 2),
            turns.turn(key).transpose(1, 2),
            value.transpose(1, 2),
            mask,
            dropout=attention.attention_dropout if attention.training else 0.0,
            scaling=attention.scaling,
            is_causal=attention.is_causal and mask is None and length > 1,
            **options,
        )
        return attention.o_proj(mixed.reshape(rows, length, -1)), shares


def _is_for(attention: Any, positions: Any) -> bool:
    return (
        isinstance(positions, Positions)
        and attention.head_dim % 2 == 0
        and attention.head_dim_padding == 0
    )

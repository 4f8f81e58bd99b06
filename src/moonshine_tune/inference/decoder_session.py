"""Decoder steps for a batch, over keys and values of the frames that are computed once.

transformers' `generate` costs several times as much per token in Python overhead on models this
small. The remaining cost is reading memory: all weights in each step, and the keys and values of
each clip's frames. So clips of about one length form a span, and no span is wider than its own
longest clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moonshine_tune.core.device import is_launch_bound, text_width
from moonshine_tune.models.base import EncoderStates, SpeechModel, additive_mask
from moonshine_tune.models.kernels.packed_linear import (
    Linear,
    packed,
    packed_together,
    side_by_side,
)
from moonshine_tune.models.kernels.rotary import rotary_tables, rotated

# A span's longest clip over its shortest, at most; and its rows, at least: with fewer, the calls of
# one more span cost more than they save.
_SPREAD = 1.25
_MIN_ROWS = 4
# With fewer rows, packing the weights takes longer than it saves. Larger decoders are not worth a
# second copy in memory; only their heads are.
_MIN_PACKED_ROWS = 4
_MAX_PACKED_BYTES = 128_000_000

_Pair = tuple[Tensor, Tensor]


class _Products:
    """The linear layers of one decoder layer, packed where that pays."""

    def __init__(self, layer: Any, *, is_packed: bool) -> None:
        own, frames, mlp = layer.self_attn, layer.encoder_attn, layer.mlp
        single = packed if is_packed else _unpacked
        together = packed_together if is_packed else side_by_side
        self.query_key_value = together((own.q_proj, own.k_proj, own.v_proj))
        self.out, self.frame_query = single(own.o_proj), single(frames.q_proj)
        self.frame_out = single(frames.o_proj)
        self._up, self._down = single(mlp.fc1), single(mlp.fc2)
        self._activation = mlp.activation_fn

    def feed_forward(self, hidden: Tensor) -> Tensor:
        """The gated MLP of both families; the first layer gives [gated, gate]."""
        gated, gate = self._up(hidden).chunk(2, dim=-1)
        return self._down(self._activation(gate) * gated)


@dataclass
class _Span:
    """Rows whose frames are attended together.

    Attributes:
        cross: keys and values of the encoder's frames, one pair per layer, [R, heads, T, width].
        mask: [R, 1, 1, T], additive; None where all rows are of one length.
    """

    rows: int
    cross: list[_Pair]
    mask: Tensor | None

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only some rows."""
        if len(rows) == self.rows:
            return
        kept = _kept(rows, self.cross[0][0].device)
        self.cross = [(key[kept], value[kept]) for key, value in self.cross]
        if self.mask is not None:
            self.mask = self.mask[kept]
        self.rows = len(rows)


class GreedySession:
    """Greedy decoding of one batch: the keys and values so far.

    Args:
        states: fastest with clips in ascending order of length; any order is right.
        max_tokens: the maximum number of steps.
    """

    def __init__(self, model: SpeechModel, states: EncoderStates, max_tokens: int) -> None:
        self._model = model
        self._layers = model.decoder.layers
        device = states.values.device
        self._pads = is_launch_bound(device)
        is_large = self._pads or len(states.lengths) >= _MIN_PACKED_ROWS
        size = sum(value.numel() * value.element_size() for value in self._layers.parameters())
        fits = is_large and size <= _MAX_PACKED_BYTES
        self._products = [_Products(layer, is_packed=fits) for layer in self._layers]
        self._head = (packed if is_large else _unpacked)(model.module.proj_out)
        self._spans = [
            self._span(start, states.lengths[start:stop], states)
            for start, stop in _span_borders(states)
        ]
        reference, attn = self._spans[0].cross[0][0], self._layers[0].self_attn
        # Keys and values of the tokens so far, allocated for all.
        length = text_width(max_tokens, device) if self._pads else max_tokens
        num_heads = len(attn.k_proj.weight) // attn.head_dim
        shape = (len(states.lengths), num_heads, length, attn.head_dim)
        allocate = reference.new_zeros if self._pads else reference.new_empty
        self._past = [(allocate(shape), allocate(shape)) for _ in self._layers]
        positions = torch.arange(length, device=device)[None]
        cos, sin = model.decoder.rotary_emb(reference, position_ids=positions)
        self._rotary = rotary_tables(cos, sin, self._layers[0].self_attn.head_dim)
        self._position = 0
        # [1, 1, L, L], additive: which keys a token attends to.
        self._past_mask: Tensor | None = None
        if self._pads:
            before = torch.ones(length, length, dtype=torch.bool, device=device).tril()
            self._past_mask = additive_mask(before, reference.dtype)[None, None]

    def _span(self, start: int, lengths: Sequence[int], states: EncoderStates) -> _Span:
        width = states.values.shape[1] if self._pads else max(lengths)
        part = EncoderStates(states.values[start : start + len(lengths), :width], tuple(lengths))
        attended = self._model.attended_states(part)
        cross = [
            (_heads(layer.encoder_attn.k_proj(attended), layer.encoder_attn),
             _heads(layer.encoder_attn.v_proj(attended), layer.encoder_attn))
            for layer in self._layers
        ]  # fmt: skip
        mask = part.mask()
        added = None if mask is None else additive_mask(mask, attended.dtype)[:, None, None]
        return _Span(len(lengths), cross, added)

    def step(self, tokens: Tensor) -> Tensor:
        """Feed one token per row, [B]; returns the logits of the next, [B, V]."""
        cos, sin = (table[self._position] for table in self._rotary)
        hidden = self._run_layers(tokens, cos, sin)
        self._position += 1
        return self._head(hidden)[:, 0]

    def _run_layers(self, tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Final hidden states [N, 1, W] of tokens [N] at the positions of their rotary tables."""
        model = self._model
        hidden = model.decoder.embed_tokens(tokens[:, None])
        for number, layer in enumerate(self._layers):
            attn, products = layer.self_attn, self._products[number]
            query, key, value = (
                part.view(len(tokens), 1, -1, attn.head_dim)
                for part in products.query_key_value(layer.input_layernorm(hidden))
            )
            mixed = self._attend_past(
                number, rotated(query, cos, sin), rotated(key, cos, sin), value, attn.scaling
            )
            hidden = hidden + products.out(mixed)
            attn = layer.encoder_attn
            query = _heads(products.frame_query(layer.post_attention_layernorm(hidden)), attn)
            hidden = hidden + products.frame_out(self._attend_frames(number, query, attn.scaling))
            hidden = hidden + products.feed_forward(layer.final_layernorm(hidden))
        result: Tensor = model.decoder.norm(hidden)
        return result

    def _attend_past(
        self, number: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        keys, values = self._past[number]
        keys[:, :, self._position] = key[:, 0]
        values[:, :, self._position] = value[:, 0]
        width, mask = self._position + 1, None
        if self._past_mask is not None:
            # A new length would be a new shape for every token.
            width = text_width(width, query.device)
            mask = self._past_mask[:, :, self._position : self._position + 1, :width]
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2), keys[:, :, :width], values[:, :, :width], mask, scale=scaling
        )
        return _joined([mixed])

    def _attend_frames(self, number: int, query: Tensor, scaling: float) -> Tensor:
        start, mixed = 0, []
        for span in self._spans:
            rows = slice(start, start + span.rows)
            keys, values = span.cross[number]
            mixed.append(
                F.scaled_dot_product_attention(
                    query[rows], keys, values, attn_mask=span.mask, scale=scaling
                )
            )
            start = rows.stop
        return _joined(mixed)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only some rows, given in ascending order."""
        kept = _kept(rows, self._past[0][0].device)
        self._past = [(key[kept], value[kept]) for key, value in self._past]
        start, spans = 0, []
        for span in self._spans:
            own = [row - start for row in rows if start <= row < start + span.rows]
            start += span.rows
            if own:
                span.keep(own)
                spans.append(span)
        self._spans = spans


def bytes_per_frame(model: SpeechModel) -> int:
    """Memory that a session takes per encoder frame: a key and a value in every layer."""
    weights: list[Tensor] = [layer.encoder_attn.k_proj.weight for layer in model.decoder.layers]
    return 2 * sum(len(weight) * weight.element_size() for weight in weights)


def _kept(rows: Sequence[int], device: torch.device) -> Any:
    """An index of rows in ascending order: adjacent ones give views, others are copied."""
    if rows[-1] - rows[0] + 1 == len(rows):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device)


def _unpacked(module: nn.Module) -> Linear:
    return module


def _span_borders(states: EncoderStates) -> list[tuple[int, int]]:
    """Start and end of each run of rows of about one length."""
    lengths = states.lengths
    # Elsewhere memory is fast and every call is costly.
    spread = _SPREAD if states.values.device.type == "cpu" else float("inf")
    starts = [0]
    for row, length in enumerate(lengths):
        inside = lengths[starts[-1] : row]
        if len(inside) < _MIN_ROWS:
            continue
        if length > spread * min(inside) or max(inside) > spread * length:
            starts.append(row)
    return list(zip(starts, [*starts[1:], len(lengths)], strict=True))


def _heads(projected: Tensor, attention: Any) -> Tensor:
    rows, length, _ = projected.shape
    split = projected.view(rows, length, -1, attention.head_dim).transpose(1, 2)
    # Read once per token: contiguous frames of a head are a quarter faster than strided ones.
    return split.contiguous()


def _joined(mixed: Sequence[Tensor]) -> Tensor:
    joined = mixed[0] if len(mixed) == 1 else torch.cat(list(mixed))
    rows, _, length, _ = joined.shape
    return joined.transpose(1, 2).reshape(rows, length, -1)

"""Greedy decoding as the runtime does it, for any number of clips.

The step is our own: one token for all rows at once over preallocated keys and values. transformers'
`generate` costs several times as much per token in Python overhead on models this small.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from moonshine_tune.device import in_few_sizes
from moonshine_tune.families.interface import (
    BOS_ID,
    EOS_ID,
    EncoderStates,
    SpeechModel,
    additive_mask,
)

SAMPLE_RATE_HZ = 16_000
TOKENS_PER_SECOND = 6.5
TOKENS_PER_SECOND_NON_LATIN = 13.0

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DecodeLimits:
    """How long an answer may grow, from each clip's own length.

    Attributes:
        tokens_per_second: 6.5 for Latin scripts, 13 for others, as the runtime has it.
    """

    tokens_per_second: float = TOKENS_PER_SECOND

    def tokens(self, seconds: float) -> int:
        """Most tokens for a clip of that length."""
        return max(math.ceil(seconds * self.tokens_per_second), 1)


class GreedySession:
    """Keys and values of a batch under way."""

    def __init__(self, model: SpeechModel, states: EncoderStates, max_tokens: int) -> None:
        self._model = model
        self._layers = model.decoder.layers
        attended = model.attended_states(states)
        self._rows = attended.shape[0]
        self._cross = [
            (self._heads(layer.encoder_attn.k_proj(attended), layer.encoder_attn),
             self._heads(layer.encoder_attn.v_proj(attended), layer.encoder_attn))
            for layer in self._layers
        ]  # fmt: skip
        mask = states.mask()
        self._mask = None if mask is None else additive_mask(mask, attended.dtype)[:, None, None]
        first = self._layers[0].self_attn
        heads = self._cross[0][0].shape[1]
        shape = (self._rows, heads, max_tokens, first.head_dim)
        self._past = [(attended.new_empty(shape), attended.new_empty(shape)) for _ in self._layers]
        places = torch.arange(max_tokens, device=attended.device)[None]
        self._cos, self._sin = model.decoder.rotary_emb(attended, position_ids=places)
        self._at = 0

    def step(self, tokens: Tensor) -> Tensor:
        """Feed one token a row, [B]; returns the logits of the next, [B, V]."""
        model, at = self._model, self._at
        cos, sin = self._cos[:, at : at + 1], self._sin[:, at : at + 1]
        hidden = model.decoder.embed_tokens(tokens[:, None])
        for layer, past, cross in zip(self._layers, self._past, self._cross, strict=True):
            attn = layer.self_attn
            normed = layer.input_layernorm(hidden)
            query = self._heads(attn.q_proj(normed), attn)
            key = self._heads(attn.k_proj(normed), attn)
            query, key = model.rotate(query, key, cos, sin)
            past[0][:, :, at : at + 1] = key
            past[1][:, :, at : at + 1] = self._heads(attn.v_proj(normed), attn)
            hidden = hidden + attn.o_proj(
                self._attend(
                    query, past[0][:, :, : at + 1], past[1][:, :, : at + 1], None, attn.scaling
                )
            )
            attn = layer.encoder_attn
            query = self._heads(attn.q_proj(layer.post_attention_layernorm(hidden)), attn)
            hidden = hidden + attn.o_proj(self._attend(query, *cross, self._mask, attn.scaling))
            hidden = hidden + layer.mlp(layer.final_layernorm(hidden))
        self._at += 1
        return model.project(model.decoder.norm(hidden))[:, 0]

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows only."""
        self._rows = len(rows)
        self._cross = [(key[rows], value[rows]) for key, value in self._cross]
        self._past = [(key[rows], value[rows]) for key, value in self._past]
        if self._mask is not None:
            self._mask = self._mask[rows]

    def _heads(self, projected: Tensor, attention: Any) -> Tensor:
        rows, length, _ = projected.shape
        return projected.view(rows, length, -1, attention.head_dim).transpose(1, 2)

    @staticmethod
    def _attend(
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
    ) -> Tensor:
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
        rows, _, length, _ = mixed.shape
        return mixed.transpose(1, 2).reshape(rows, length, -1)


@torch.inference_mode()
def greedy_tokens(
    model: SpeechModel, states: EncoderStates, limits: Sequence[int]
) -> list[list[int]]:
    """Token ids of each row, without start and end, at most `limits[row]` of them."""
    longest = min(max(limits), model.max_tokens)
    session = GreedySession(model, states, longest)
    answers: list[list[int]] = [[] for _ in limits]
    alive = list(range(len(limits)))
    tokens = torch.full((len(alive),), BOS_ID, device=model.device)
    for _ in range(longest):
        tokens = session.step(tokens).argmax(dim=-1)
        going = []
        for place, (row, token) in enumerate(zip(alive, tokens.tolist(), strict=True)):
            if token == EOS_ID:
                continue
            answers[row].append(token)
            if len(answers[row]) < min(limits[row], longest):
                going.append(place)
        if not going:
            break
        if len(going) < len(alive):
            kept = torch.tensor(going, device=model.device)
            session.keep(kept)
            tokens = tokens[kept]
            alive = [alive[place] for place in going]
    return answers


def pad_clips(
    clips: Sequence[Samples], device: torch.device, *, few_sizes: bool = False
) -> tuple[Tensor, list[int]]:
    """Clips as one zero-padded batch [B, S] and their sample counts.

    Args:
        few_sizes: pad on to the next size of `in_few_sizes`; no result depends on it.
    """
    counts = [len(clip) for clip in clips]
    longest = max(counts)
    width = in_few_sizes(longest) if few_sizes else longest
    batch = np.zeros((len(clips), width), dtype=np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    return torch.from_numpy(batch).to(device), counts


def batches_by_length(seconds: Sequence[float], max_batch_s: float) -> list[list[int]]:
    """Indices grouped by similar length, each within `max_batch_s` of padded audio (memory)."""
    groups: list[list[int]] = []
    current: list[int] = []
    for index in sorted(range(len(seconds)), key=lambda i: (seconds[i], i)):
        if current and seconds[index] * (len(current) + 1) > max_batch_s:
            groups.append(current)
            current = []
        current.append(index)
    return [*groups, current] if current else groups


def fit_clip(model: SpeechModel, clip: Samples) -> Samples:
    """The clip, padded with silence to the shortest length that the model can encode."""
    missing = model.min_samples - len(clip)
    return clip if missing <= 0 else np.pad(clip, (0, missing))


@torch.inference_mode()
def transcribe_batch(
    model: SpeechModel, clips: Sequence[Samples], limits: DecodeLimits
) -> list[str]:
    """Greedy transcripts of clips that are decoded together."""
    fitted = [fit_clip(model, clip) for clip in clips]
    audio, counts = pad_clips(fitted, model.device)
    states = model.encode(audio, counts)
    tokens = greedy_tokens(
        model, states, [limits.tokens(len(clip) / SAMPLE_RATE_HZ) for clip in clips]
    )
    return [model.tokenizer.decode(ids) for ids in tokens]


class TorchTranscriber:
    """A model in memory behind the interface that the runtime's transcriber has too."""

    backend = "torch"

    def __init__(self, model: SpeechModel, limits: DecodeLimits) -> None:
        self._model, self._limits = model, limits

    def transcribe(self, clips: Sequence[Samples]) -> list[str]:
        """Transcripts of clips, mono float32 at 16 kHz, decoded together."""
        return transcribe_batch(self._model, clips, self._limits)

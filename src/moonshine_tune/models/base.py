"""The interface of both Moonshine families.

All other packages work on a `SpeechModel`; only this one knows transformers' class names. Shapes: B
clips, S samples, T encoder frames, W encoder width, L tokens, V vocabulary.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from moonshine_tune.core.device import batch_width, is_launch_bound

BOS_ID, EOS_ID = 1, 2
TOKENS_PER_SECOND = 6.5
TOKENS_PER_SECOND_NON_LATIN = 13.0


@dataclass(frozen=True)
class DecodeLimits:
    """Most tokens of a transcript, by the length of its clip.

    Attributes:
        tokens_per_second: 6.5 for Latin scripts, 13 for others, as in the runtime.
    """

    tokens_per_second: float = TOKENS_PER_SECOND

    def tokens(self, seconds: float) -> int:
        """Most tokens for a clip of that length."""
        return max(math.ceil(seconds * self.tokens_per_second), 1)


@dataclass(frozen=True)
class EncoderStates:
    """Encoder output of a batch, or the input of the encoder's layers: both have the same shape.

    Attributes:
        values: [B, T, W]; frames past a clip's length are padding.
        lengths: frames of each clip.
    """

    values: Tensor
    lengths: tuple[int, ...]

    def mask(self) -> Tensor | None:
        """[B, T], true where a frame belongs to its clip; None if there is no padding."""
        return length_mask(self.lengths, self.values.shape[1], self.values.device)

    def select(self, rows: Sequence[int]) -> "EncoderStates":
        """The states of some clips, trimmed to the longest of them, or to its `batch_width`."""
        lengths = tuple(self.lengths[row] for row in rows)
        device = self.values.device
        width = batch_width(max(lengths), device) if is_launch_bound(device) else max(lengths)
        return EncoderStates(self.values[torch.tensor(rows, device=device), :width], lengths)


@dataclass(frozen=True)
class NormReaders:
    """A normalization's gain and all matrices that read its output.

    Dividing the gain by a vector and multiplying the matrices' columns with it changes nothing.

    Attributes:
        gain: parameter name.
        offset: what the layer adds to the parameter before it multiplies.
        matrices: parameter names, each [out, in].
    """

    gain: str
    offset: float
    matrices: tuple[str, ...]


class TextTokenizer:
    """Text to token ids and back, without special tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.raw = tokenizer

    @property
    def vocabulary_size(self) -> int:
        """Number of ids."""
        return int(self.raw.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without start and end tokens."""
        ids: list[int] = self.raw.encode(text, add_special_tokens=False).ids
        return ids

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each token of `encode` in the characters of `text`."""
        offsets: list[tuple[int, int]] = self.raw.encode(text, add_special_tokens=False).offsets
        return offsets

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        text: str = self.raw.decode(list(ids), skip_special_tokens=True)
        return text.strip()


class SpeechModel(ABC):
    """A Moonshine model of either family with its tokenizer."""

    family: str

    def __init__(self, module: nn.Module, tokenizer: TextTokenizer) -> None:
        self.module: Any = module
        self.tokenizer = tokenizer

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = self.decoder.norm.weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the encoder's weights."""
        dtype: torch.dtype = self.encoder.layers[0].self_attn.q_proj.weight.dtype
        return dtype

    @property
    def encoder(self) -> Any:
        """The encoder module."""
        return self.module.model.encoder

    @property
    def decoder(self) -> Any:
        """The decoder module."""
        return self.module.model.decoder

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the layers' activations in the backward pass instead of keeping them.

        Non-reentrant, because the reentrant kind gives no gradients if only adapters train.
        """
        options = {"use_reentrant": False}
        if hasattr(self.module, "activation_checkpointing_enable"):
            self.module.activation_checkpointing_enable(options)
        else:
            # The name before transformers 5.2x.
            self.module.gradient_checkpointing_enable(options)

    def make_activation_inputs_contiguous(self) -> None:
        """Copy the input of the decoder's activations, which is a slice of a wider tensor.

        On MPS the gradient of SiLU on such a slice has been silently wrong. Price: one copy per
        layer.
        """
        for layer in self.decoder.layers:
            layer.mlp.activation_fn = _ContiguousInput(layer.mlp.activation_fn)

    def norm_readers(self) -> list[NormReaders]:
        """The normalizations inside the layers, each with the matrices that read its output."""
        own = tuple(f"self_attn.{name}_proj" for name in "qkv")
        kinds = {
            "encoder": {"input_layernorm": own, "post_attention_layernorm": ("mlp.fc1",)},
            "decoder": {
                "input_layernorm": own,
                "post_attention_layernorm": ("encoder_attn.q_proj",),
                "final_layernorm": ("mlp.fc1",),
            },
        }
        readers = []
        for part, norms in kinds.items():
            for index, layer in enumerate(getattr(self, part).layers):
                prefix = f"model.{part}.layers.{index}."
                for name, matrices in norms.items():
                    norm = getattr(layer, name)
                    gain = "gamma" if hasattr(norm, "gamma") else "weight"
                    readers.append(
                        NormReaders(
                            gain=f"{prefix}{name}.{gain}",
                            offset=getattr(norm, "unit_offset", 0.0),
                            matrices=tuple(f"{prefix}{matrix}.weight" for matrix in matrices),
                        )
                    )
        return readers

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids."""
        return int(self.decoder.embed_tokens.num_embeddings)

    @property
    def max_tokens(self) -> int:
        """Longest token sequence that the decoder supports."""
        return int(self.module.config.max_position_embeddings)

    @property
    @abstractmethod
    def min_samples(self) -> int:
        """Fewest samples that give one encoder frame."""

    @property
    @abstractmethod
    def samples_per_frame(self) -> int:
        """Samples between encoder frames."""

    @property
    @abstractmethod
    def frame_offset_samples(self) -> int:
        """Where the sound of the first encoder frame starts; each takes `samples_per_frame`."""

    @abstractmethod
    def frame_count(self, num_samples: int) -> int:
        """Number of encoder frames of a clip."""

    @abstractmethod
    def front_end(self, audio: Tensor, num_samples: Sequence[int]) -> EncoderStates:
        """Input of the encoder's layers for a zero-padded batch [B, S]; never has an adapter."""

    @abstractmethod
    def encoder_layers(self, features: EncoderStates) -> EncoderStates:
        """The encoder's layers on the front end's output; `features` are not changed."""

    def encode(self, audio: Tensor, num_samples: Sequence[int]) -> EncoderStates:
        """Encode a zero-padded batch [B, S]; no clip's states depend on the other clips."""
        return self.encoder_layers(self.front_end(audio, num_samples))

    @abstractmethod
    def attended_states(self, states: EncoderStates) -> Tensor:
        """Input of the decoder's cross-attention, [B, T, decoder width]."""

    def decoder_hidden(self, states: EncoderStates, input_ids: Tensor) -> Tensor:
        """Final hidden states of the decoder for `input_ids` [B, L] → [B, L, decoder width].

        Rows may be padded at the right, because the decoder is causal.
        """
        own, frames = self._decoder_masks(states, input_ids.shape[1])
        output = self.decoder(
            input_ids=input_ids,
            attention_mask=own,
            # The streaming decoder adds its positions in place, so it gets a copy.
            encoder_hidden_states=states.values.clone(),
            encoder_attention_mask=frames,
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _decoder_masks(
        self, states: EncoderStates, length: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Masks of the tokens before and of the frames, as transformers' decoder takes them.

        On MPS they are complete: transformers looks into others to find out whether it needs them,
        and reading a value waits for the GPU, twice a pass. Elsewhere it may choose faster kernels.
        """
        frames = states.mask()
        if not is_launch_bound(self.device):
            return None, frames
        dtype = self.decoder.embed_tokens.weight.dtype
        before = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        own = additive_mask(before, dtype)[None, None]
        return own, None if frames is None else additive_mask(frames, dtype)[:, None, None]

    @property
    def head_weight(self) -> Tensor:
        """Weight of the output head, [V, decoder width]; frozen, no bias in either family."""
        weight: Tensor = self.module.proj_out.weight
        return weight

    def project(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary."""
        logits: Tensor = self.module.proj_out(hidden)
        return logits

    def decoder_logits(self, states: EncoderStates, input_ids: Tensor) -> Tensor:
        """Logits [B, L, V] of the next token at each position."""
        return self.project(self.decoder_hidden(states, input_ids))


class _ContiguousInput(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.inner(values.contiguous())
        return result


def length_mask(lengths: Sequence[int], width: int, device: torch.device) -> Tensor | None:
    """[B, width], true before each length; None if there is no padding."""
    if all(length == width for length in lengths):
        return None
    ends = torch.tensor(lengths, device=device)
    return torch.arange(width, device=device)[None, :] < ends[:, None]


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where attention is allowed, the lowest number elsewhere."""
    zero = torch.zeros((), dtype=dtype, device=allowed.device)
    return torch.where(allowed, zero, torch.finfo(dtype).min)

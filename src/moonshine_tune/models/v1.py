"""Moonshine v1 (tiny, base): full attention in the encoder, rotary positions, tied head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moonshine_tune.models.base import EncoderStates, SpeechModel, additive_mask, length_mask

_KERNELS = ((127, 64), (7, 3), (3, 2))


class V1SpeechModel(SpeechModel):
    """Runs the v1 encoder with normalization statistics of each clip's own frames.

    The published module normalizes its first features over the padded clip, which changes the
    states of a short clip by 16 % in a batch with a long one. The runtime never pads, so the
    statistics leave out the padding here.
    """

    family = "v1"

    @property
    def min_samples(self) -> int:
        """Fewest samples that give one encoder frame."""
        needed = 1
        for kernel, stride in reversed(_KERNELS):
            needed = (needed - 1) * stride + kernel
        return needed

    @property
    def samples_per_frame(self) -> int:
        """Samples between encoder frames."""
        return 64 * 3 * 2

    @property
    def frame_offset_samples(self) -> int:
        """Half of what a frame takes in beyond its own samples: it lies in the middle."""
        return (self.min_samples - self.samples_per_frame) // 2

    def frame_count(self, num_samples: int) -> int:
        """Number of encoder frames of a clip."""
        return _after(num_samples, len(_KERNELS))

    def front_end(self, audio: Tensor, num_samples: Sequence[int]) -> EncoderStates:
        """Three convolutions of [B, S] → 41.7 frames per second."""
        encoder = self.encoder
        features = encoder.conv1(audio.to(self.dtype)[:, None]).tanh_()
        own = [_after(count, 1) for count in num_samples]
        features = _group_norm(features, own, encoder.groupnorm)
        features = F.gelu(encoder.conv2(features))
        hidden = F.gelu(encoder.conv3(features)).transpose(1, 2)
        return EncoderStates(hidden, tuple(self.frame_count(count) for count in num_samples))

    def encoder_layers(self, features: EncoderStates) -> EncoderStates:
        """Attention over all frames of a clip."""
        encoder, hidden, lengths = self.encoder, features.values, features.lengths
        mask = length_mask(lengths, hidden.shape[1], hidden.device)
        attention_mask = None if mask is None else additive_mask(mask, hidden.dtype)[:, None, None]
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        rotary = encoder.rotary_emb(hidden, position_ids=positions)
        for layer in encoder.layers:
            hidden = layer(
                hidden,
                attention_mask=attention_mask,
                position_ids=positions,
                position_embeddings=rotary,
            )
        return EncoderStates(encoder.layer_norm(hidden), lengths)

    def attended_states(self, states: EncoderStates) -> Tensor:
        """The encoder states, unchanged."""
        return states.values


def _after(num_samples: int, num_convolutions: int) -> int:
    length = num_samples
    for kernel, stride in _KERNELS[:num_convolutions]:
        length = max((length - kernel) // stride + 1, 0)
    return length


def _group_norm(features: Tensor, own: Sequence[int], norm: nn.GroupNorm) -> Tensor:
    """Group norm of one group over [B, C, N], with statistics of the first `own[i]` frames.

    `features` are overwritten unless they need a gradient: they are the largest tensor of a
    transcription, and allocating a second one takes longer than filling it.
    """
    mask = length_mask(own, features.shape[2], features.device)
    if mask is None:
        normed: Tensor = norm(features)
        return normed
    past = ~mask[:, None, :]
    if features.requires_grad:
        features = features.clone()
    _zero_past(features, own, past)
    # By channel and in 32 bits: a single sum over a million numbers would lose four digits.
    wide = features.float() if features.dtype.itemsize == 2 else features
    counts = torch.tensor(own, device=features.device) * features.shape[1]
    mean = wide.sum(dim=2).sum(dim=1) / counts
    variance = torch.linalg.vector_norm(wide, dim=2).square().sum(dim=1) / counts - mean.square()
    scale = torch.rsqrt(variance.clamp(min=0.0) + norm.eps)[:, None, None] * norm.weight[:, None]
    shift = norm.bias[:, None] - mean[:, None, None] * scale
    if features.requires_grad:
        scaled = (wide * scale + shift).to(features.dtype)
    else:
        scaled = wide.mul_(scale).add_(shift).to(features.dtype)
    # Again, so that padding stays small.
    _zero_past(scaled, own, past)
    return scaled


def _zero_past(features: Tensor, own: Sequence[int], past: Tensor) -> None:
    """Zero the padding of [B, C, N]; `past` [B, 1, N] is true there."""
    if features.device.type != "cpu":
        features.masked_fill_(past, 0.0)
        return
    # Writing only the padding takes a thirtieth of the time.
    for row, length in enumerate(own):
        features[row, :, length:] = 0.0

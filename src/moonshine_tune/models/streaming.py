"""Moonshine streaming (tiny, small, medium): causal front end, sliding windows, untied head."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from moonshine_tune.models.base import EncoderStates, SpeechModel, additive_mask, length_mask
from moonshine_tune.models.kernels.attention import WindowBlocks, takes_blocks


class StreamingSpeechModel(SpeechModel):
    """Runs the streaming encoder with the exact frame count of each clip.

    The published module widens its padding mask in both strided convolutions, so a padded clip
    attends to up to two frames more than the same clip alone. The convolutions are causal: no frame
    of a clip depends on padding. Therefore the front end runs without a mask here, and attention
    gets the exact counts.
    """

    family = "streaming"

    @property
    def _frame_samples(self) -> int:
        return int(self.encoder.embedder.frame_len)

    @property
    def min_samples(self) -> int:
        """Fewest samples that give one encoder frame."""
        return self._frame_samples

    @property
    def samples_per_frame(self) -> int:
        """Samples between encoder frames."""
        return self._frame_samples * 4

    @property
    def frame_offset_samples(self) -> int:
        """None: the convolutions look back, and the layers after them ahead."""
        return 0

    def frame_count(self, num_samples: int) -> int:
        """Number of encoder frames of a clip."""
        frames = num_samples // self._frame_samples
        for _ in range(2):
            frames = (frames + 1) // 2
        return frames

    def front_end(self, audio: Tensor, num_samples: Sequence[int]) -> EncoderStates:
        """[B, S] → 50 frames per second; a remainder shorter than 5 ms is dropped."""
        embedder = self.encoder.embedder
        usable = audio.shape[1] // self._frame_samples * self._frame_samples
        frames = audio[:, :usable].to(self.dtype).reshape(len(audio), -1, self._frame_samples)
        features = F.silu(embedder.linear(embedder.comp(embedder.cmvn(frames)))).transpose(1, 2)
        features = F.silu(embedder.conv1(features)[0])
        hidden = embedder.conv2(features)[0].transpose(1, 2)
        return EncoderStates(hidden, tuple(self.frame_count(count) for count in num_samples))

    def encoder_layers(self, features: EncoderStates) -> EncoderStates:
        """Attention within the window of each layer."""
        encoder, hidden, lengths = self.encoder, features.values, features.lengths
        masks = self._window_masks(lengths, hidden)
        for index, layer in enumerate(encoder.layers):
            hidden = layer(hidden, attention_mask=masks[self._window(index)])
        return EncoderStates(encoder.final_norm(hidden), lengths)

    def _window(self, layer: int) -> tuple[int, int]:
        left, right = self.encoder.config.sliding_windows[layer]
        return int(left), int(right)

    def _window_masks(
        self, lengths: Sequence[int], hidden: Tensor
    ) -> Mapping[tuple[int, int], Tensor | WindowBlocks]:
        """A mask for each distinct window: blocks for long clips, else [B or 1, 1, T, T]."""
        own = length_mask(lengths, hidden.shape[1], hidden.device)
        if takes_blocks(self.encoder.config, hidden.shape[1]):
            # In transformers both bounds are exclusive.
            return {
                (left, right): WindowBlocks.of(left - 1, max(right - 1, 0), own, hidden)
                for left, right in self._windows()
            }
        return self._full_masks(own, hidden)

    def _windows(self) -> set[tuple[int, int]]:
        return {self._window(index) for index in range(len(self.encoder.layers))}

    def _full_masks(self, own: Tensor | None, hidden: Tensor) -> dict[tuple[int, int], Tensor]:
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        distance = positions[:, None] - positions[None, :]
        masks = {}
        for window in self._windows():
            left, right = window
            allowed = ((distance >= 0) & (distance < left)) | ((distance < 0) & (-distance < right))
            allowed = allowed[None, None]
            if own is not None:
                # A frame of padding attends to itself, so that no row is fully masked.
                itself = torch.eye(hidden.shape[1], dtype=torch.bool, device=hidden.device)
                allowed = (allowed & own[:, None, None, :]) | itself[None, None]
            masks[window] = additive_mask(allowed, hidden.dtype)
        return masks

    def attended_states(self, states: EncoderStates) -> Tensor:
        """States with the decoder's position embeddings added, projected to its width."""
        decoder = self.decoder
        positions = torch.arange(states.values.shape[1], device=states.values.device)
        projected: Tensor = decoder.proj(states.values + decoder.pos_emb(positions))
        return projected

"""The shapes on which the memory and the time of a run depend."""

import math
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class RunShape:
    """Everything that the memory of a run depends on.

    Attributes:
        device: `cpu`, `mps` or `cuda`. Training on MPS uses eager attention.
        sites: target modules of the adapter, by their name in `models.lora.TARGET_MODULES`.
        rank, dropout, dora: as in `models.lora.inject_lora`.
        full: the layers at `sites` train themselves, and have no adapter.
        copies: of what trains, on the CPU: late adapters that are averaged.
        loose_heap: the CPU's allocator is glibc's default, which fragments; the alternative is
            `core.device.return_freed_memory_to_os`.
        frozen_dtype: number format of the frozen weights.
        mixed: bfloat16 autocast around the forward pass.
        batch_size: clips in a micro-batch; accumulation takes no memory.
        clip_s: the longest clip, seconds.
        tokens: in its transcript.
        stored_s: seconds of audio whose encoder states are stored, or the front end's features if
            the encoder trains; 0: clips are encoded in every step.
        stored_limit_mb: most memory for them, in MB of 10^6 bytes; the rest is stored on disk.
        releases_encoder: the encoder is freed once all states are stored.
        replay_clips: clips of a micro-batch on which the base model teaches; 0 for none.
        replay_window_s: most seconds of such a clip, if shorter than `clip_s`; its tokens in
            proportion.
        pulled_s: seconds of replay audio whose encoder states of the base are kept, in 16 bits, for
            an encoder that trains.
        score_batch_s: padded audio that is decoded together when the dev set is scored; 0: nothing
            is scored.
        prepare_batch_s: padded audio that is encoded together when states are stored.
    """

    device: str = "cpu"
    sites: str = "decoder"
    rank: int = 8
    dropout: float = 0.0
    dora: bool = False
    full: bool = False
    copies: int = 0
    loose_heap: bool = False
    frozen_dtype: torch.dtype = torch.float32
    mixed: bool = False
    batch_size: int = 8
    clip_s: float = 10.0
    tokens: int = 65
    gradient_checkpointing: bool = False
    stored_s: float = 0.0
    stored_limit_mb: float = math.inf
    releases_encoder: bool = False
    replay_clips: int = 0
    replay_window_s: float = math.inf
    pulled_s: float = 0.0
    score_batch_s: float = 120.0
    prepare_batch_s: float = 60.0

    @property
    def stores(self) -> bool:
        """Whether encoder states, or the front end's features, are stored."""
        return self.stored_s > 0

    def of_replay(self) -> "RunShape":
        """The shape with the clips of the replay phase as clips."""
        clip_s = min(self.clip_s, self.replay_window_s)
        tokens = max(math.ceil(self.tokens * clip_s / self.clip_s), 1)
        return replace(self, batch_size=self.replay_clips, clip_s=clip_s, tokens=tokens)

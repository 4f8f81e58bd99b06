"""Greedy decoding as the runtime does it, for any number of clips."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from moonshine_tune.inference.decoder_session import GreedySession, bytes_per_frame
from moonshine_tune.core.device import batch_width
from moonshine_tune.models.base import BOS_ID, EOS_ID, EncoderStates, SpeechModel

SAMPLE_RATE_HZ = 16_000
TOKENS_PER_SECOND = 6.5
TOKENS_PER_SECOND_NON_LATIN = 13.0

# Padded audio that is encoded together. A thousand frames keep a CPU busy, and clips of one batch
# differ less; a GPU wants more of them.
_ENCODE_CPU_S, _ENCODE_S = 20.0, 60.0
# The share of a batch below which the rows that are done leave it.
_LEAVE_SHARE = 0.6
# Audio that is decoded together. A token reads all weights of the decoder, for one clip as for
# fifty, so small models take more of it, until their keys and values take this much memory.
_DECODE_S = 240.0
_DECODE_BYTES = 256_000_000

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


@torch.inference_mode()
def greedy_tokens(
    model: SpeechModel, states: EncoderStates, limits: Sequence[int]
) -> list[list[int]]:
    """Token ids of each row, without start and end, at most `limits[row]` of them."""
    longest = min(max(limits), model.max_tokens)
    answers: list[list[int]] = [[] for _ in limits]
    # The session wants neighbours of one length; what comes sorted stays as it is.
    rows = sorted(range(len(limits)), key=lambda row: states.lengths[row])
    in_order = rows == list(range(len(rows)))
    session = GreedySession(model, states if in_order else states.select(rows), longest)
    going = list(range(len(rows)))
    tokens = torch.full((len(rows),), BOS_ID, device=model.device)
    for _ in range(longest):
        tokens = session.step(tokens).argmax(dim=-1)
        found, still = tokens.tolist(), []
        for place in going:
            row, token = rows[place], found[place]
            if token == EOS_ID:
                continue
            answers[row].append(token)
            if len(answers[row]) < min(limits[row], longest):
                still.append(place)
        going = still
        if not going:
            break
        stay = _staying(going, len(rows), free_to_trim=model.device.type == "cpu")
        if len(stay) < len(rows):
            session.keep(stay)
            tokens = tokens[torch.tensor(stay, device=model.device)]
            rows = [rows[place] for place in stay]
            at = {place: index for index, place in enumerate(stay)}
            going = [at[place] for place in going]
    return answers


def _staying(going: Sequence[int], count: int, *, free_to_trim: bool) -> Sequence[int]:
    """Rows that stay in the batch: those that go on, and perhaps some that are done.

    To take rows out of the middle copies the keys and values of all others: done when few are left.
    At the ends it copies nothing, but every new shape costs a device that compiles for shapes.
    """
    if len(going) <= _LEAVE_SHARE * count:
        return going
    return range(going[0], going[-1] + 1) if free_to_trim else range(count)


def encode_batch_s(device: torch.device) -> float:
    """Seconds of padded audio that are encoded together."""
    return _ENCODE_CPU_S if device.type == "cpu" else _ENCODE_S


def encode_clips(model: SpeechModel, clips: Sequence[Samples]) -> EncoderStates:
    """Encoder states of clips, encoded a few at a time and laid together.

    The encoder's memory grows with the audio at once and its speed does not; the decoder reads all
    of its weights for every token, for one clip as for fifty.
    """
    parts = []
    for group in _neighbours(
        [len(clip) for clip in clips], encode_batch_s(model.device) * SAMPLE_RATE_HZ
    ):
        audio, counts = pad_clips([clips[index] for index in group], model.device)
        parts.append(model.encode(audio, counts))
    if len(parts) == 1:
        return parts[0]
    width = max(part.values.shape[1] for part in parts)
    values = [F.pad(part.values, (0, 0, 0, width - part.values.shape[1])) for part in parts]
    return EncoderStates(torch.cat(values), tuple(n for part in parts for n in part.lengths))


def _neighbours(sizes: Sequence[float], limit: float, *, padded: bool = True) -> list[list[int]]:
    """Indices in their order, cut so that each group is within `limit`.

    Args:
        padded: each member counts as much as the longest of its group.
    """
    groups: list[list[int]] = []
    longest = total = 0.0
    for index, size in enumerate(sizes):
        longest, total = max(longest, size), total + size
        if groups and (longest * (len(groups[-1]) + 1) if padded else total) <= limit:
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = total = size
    return groups


def pad_clips(
    clips: Sequence[Samples], device: torch.device, *, few_sizes: bool = False
) -> tuple[Tensor, list[int]]:
    """Clips as one zero-padded batch [B, S] and their sample counts.

    Args:
        few_sizes: pad on as `batch_width` has it; no result depends on it.
    """
    counts = [len(clip) for clip in clips]
    longest = max(counts)
    width = batch_width(longest, device) if few_sizes else longest
    batch = np.zeros((len(clips), width), dtype=np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    return torch.from_numpy(batch).to(device), counts


def batches_by_length(
    seconds: Sequence[float], max_batch_s: float, *, padded: bool = True
) -> list[list[int]]:
    """Indices grouped by similar length, each within `max_batch_s` of audio (memory).

    Args:
        padded: count it as padded to the longest clip of the group.
    """
    order = sorted(range(len(seconds)), key=lambda i: (seconds[i], i))
    groups = _neighbours([seconds[index] for index in order], max_batch_s, padded=padded)
    return [[order[place] for place in group] for group in groups]


def fit_clip(model: SpeechModel, clip: Samples) -> Samples:
    """The clip, padded with silence to the shortest length that the model can encode."""
    missing = model.min_samples - len(clip)
    return clip if missing <= 0 else np.pad(clip, (0, missing))


@torch.inference_mode()
def transcribe_batch(
    model: SpeechModel, clips: Sequence[Samples], limits: DecodeLimits
) -> list[str]:
    """Greedy transcripts of clips that are decoded together."""
    states = encode_clips(model, [fit_clip(model, clip) for clip in clips])
    tokens = greedy_tokens(
        model, states, [limits.tokens(len(clip) / SAMPLE_RATE_HZ) for clip in clips]
    )
    return [model.tokenizer.decode(ids) for ids in tokens]


class TorchTranscriber:
    """A model in memory behind the interface that the runtime's transcriber has too."""

    backend = "torch"

    def __init__(self, model: SpeechModel, limits: DecodeLimits) -> None:
        self._model, self._limits = model, limits

    @property
    def batch_s(self) -> float:
        """Seconds of audio that are best handed over at a time."""
        frame_s = self._model.samples_per_frame / SAMPLE_RATE_HZ
        return max(_DECODE_S, _DECODE_BYTES / bytes_per_frame(self._model) * frame_s)

    def transcribe(self, clips: Sequence[Samples]) -> list[str]:
        """Transcripts of clips, mono float32 at 16 kHz, decoded together."""
        return transcribe_batch(self._model, clips, self._limits)

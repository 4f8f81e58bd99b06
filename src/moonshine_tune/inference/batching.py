"""Batches of clips: padded, grouped by length, and halved when memory runs out."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.core.device import (
    batch_width,
    is_launch_bound,
    is_out_of_memory,
    release_memory,
)
from moonshine_tune.core.errors import MachineError
from moonshine_tune.core.progress import Stage
from moonshine_tune.core.text import first_line
from moonshine_tune.models.base import EncoderStates, SpeechModel

# Padded audio that is encoded together. A thousand frames keep a CPU busy, and in a small batch the
# lengths differ less. A GPU needs more of them.
_ENCODE_CPU_S, _ENCODE_S = 20.0, 60.0


def encode_batch_s(device: torch.device) -> float:
    """Seconds of padded audio that are encoded together."""
    return _ENCODE_CPU_S if device.type == "cpu" else _ENCODE_S


def encode_clips(model: SpeechModel, clips: Sequence[Samples]) -> EncoderStates:
    """Encoder states of clips, encoded a few at a time and put into one batch.

    More audio at once costs the encoder memory and does not make it faster. The decoder reads all
    of its weights for every token, for one clip as for fifty.
    """
    parts = []
    for group in consecutive_groups(
        [len(clip) for clip in clips], encode_batch_s(model.device) * SAMPLE_RATE_HZ
    ):
        audio, counts = pad_clips(
            [clips[index] for index in group],
            model.device,
            pad_to_bucket=is_launch_bound(model.device),
        )
        parts.append(model.encode(audio, counts))
    return joined_states(parts)


def joined_states(parts: Sequence[EncoderStates]) -> EncoderStates:
    """States of several batches as one, padded to the longest clip."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.values.shape[1] for part in parts)
    values = [F.pad(part.values, (0, 0, 0, width - part.values.shape[1])) for part in parts]
    return EncoderStates(torch.cat(values), tuple(n for part in parts for n in part.lengths))


def consecutive_groups(
    sizes: Sequence[float], limit: float, *, padded: bool = True
) -> list[list[int]]:
    """Indices in their order, in groups that are each within `limit`.

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
    clips: Sequence[Samples], device: torch.device, *, pad_to_bucket: bool = False
) -> tuple[Tensor, list[int]]:
    """Clips as one zero-padded batch [B, S] and their sample counts.

    Args:
        pad_to_bucket: pad further, to the width of `batch_width`; no result depends on it.
    """
    counts = [len(clip) for clip in clips]
    longest = max(counts)
    width = batch_width(longest, device, of_audio=True) if pad_to_bucket else longest
    batch = np.zeros((len(clips), width), dtype=np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    return torch.from_numpy(batch).to(device), counts


def batches_by_length(
    seconds: Sequence[float], max_batch_s: float, *, padded: bool = True
) -> list[list[int]]:
    """Indices grouped by similar length, each group within `max_batch_s` of audio.

    Args:
        padded: count the audio as padded to the longest clip of the group.
    """
    order = sorted(range(len(seconds)), key=lambda i: (seconds[i], i))
    groups = consecutive_groups([seconds[index] for index in order], max_batch_s, padded=padded)
    return [[order[position] for position in group] for group in groups]


def fit_clip(model: SpeechModel, clip: Samples) -> Samples:
    """The clip, padded with silence if it is shorter than the model can encode."""
    missing = model.min_samples - len(clip)
    return clip if missing <= 0 else np.pad(clip, (0, missing))


def run_with_oom_backoff(
    groups: Sequence[Sequence[int]],
    work: Callable[[Sequence[int]], None],
    device: torch.device,
    stage: Stage | None = None,
) -> None:
    """Call `work` on each group in order; a group that runs out of memory is halved and retried.

    Args:
        stage: advanced by the size of each group that is done.

    Raises:
        MachineError: one item alone does not fit.
    """
    waiting = [list(group) for group in reversed(groups)]
    while waiting:
        group = waiting.pop()
        reason = ""
        try:
            work(group)
            if stage is not None:
                stage.advance(len(group))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error) or type(error).__name__
        if not reason:
            continue
        # Not in the except block: the traceback holds the tensors that must go.
        release_memory(device)
        if len(group) == 1:
            raise MachineError(
                f"out of memory with a single clip: {first_line(reason)}",
                hint="leave long clips out: --set data.max_clip_s=10",
            )
        middle = (len(group) + 1) // 2
        waiting += [group[middle:], group[:middle]]

"""Training losses, as sums with counts: divided once, per optimizer step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from moonshine_tune.families.interface import BOS_ID, EOS_ID

IGNORED = -100


@dataclass(frozen=True)
class TargetBatch:
    """Decoder inputs and targets of a batch, [B, L], padded at the right.

    Attributes:
        input_ids: start token, then the text.
        targets: the text, then the end token; `IGNORED` on padding.
        num_targets: targets that count.
    """

    input_ids: Tensor
    targets: Tensor
    num_targets: int


def target_batch(texts: Sequence[Sequence[int]], device: torch.device | str) -> TargetBatch:
    """Explicit decoder inputs [bos] + text and targets text + [eos].

    Made here and never left to the model's `labels`: transformers before 5.15 shifts those twice.
    """
    longest = max(len(text) for text in texts) + 1
    inputs = torch.full((len(texts), longest), EOS_ID)
    targets = torch.full((len(texts), longest), IGNORED)
    for row, text in enumerate(texts):
        inputs[row, : len(text) + 1] = torch.tensor([BOS_ID, *text])
        targets[row, : len(text) + 1] = torch.tensor([*text, EOS_ID])
    count = sum(len(text) + 1 for text in texts)
    return TargetBatch(inputs.to(device), targets.to(device), count)


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropy over all targets that count, in 32 bits.

    Args:
        logits: [..., V].
        targets: [...], `IGNORED` where nothing is to be predicted.
    """
    return F.cross_entropy(
        logits.float().reshape(-1, logits.shape[-1]),
        targets.reshape(-1),
        ignore_index=IGNORED,
        reduction="sum",
    )


def kl_to_teacher_sum(logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over counting places of KL(teacher ‖ student), in nats.

    Args:
        logits, teacher_logits: [..., V].
        targets: [...], `IGNORED` where the place does not count.
    """
    counts = targets.reshape(-1) != IGNORED
    student = F.log_softmax(logits.float().reshape(-1, logits.shape[-1])[counts], dim=-1)
    teacher = F.log_softmax(teacher_logits.float().reshape(-1, logits.shape[-1])[counts], dim=-1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True)

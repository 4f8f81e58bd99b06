"""Training losses, as sums: the training step divides once, by the number of targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from moonshine_tune.core.device import is_launch_bound, text_width
from moonshine_tune.models.base import BOS_ID, EOS_ID
from moonshine_tune.models.kernels.frozen_linear import back_product, frozen_product

IGNORED = -100
# Positions whose logits are alive at once: 128 x 32,768 numbers are 17 MB in 32 bits.
_CHUNK = 128


@dataclass(frozen=True)
class TargetBatch:
    """Decoder inputs and targets of a batch, [B, L], padded at the right.

    Attributes:
        input_ids: start token, then the text.
        targets: the text, then the end token; `IGNORED` on padding. On the CPU: which positions
            count is known there, and asking a GPU would wait for all that it has to do.
        num_targets: number of targets that are not `IGNORED`.
    """

    input_ids: Tensor
    targets: Tensor
    num_targets: int


def target_batch(
    texts: Sequence[Sequence[int]], device: torch.device | str, *, pad_to_bucket: bool = False
) -> TargetBatch:
    """Explicit decoder inputs [bos] + text and targets text + [eos].

    The model's own `labels` are not used, because transformers before 5.15 shifts them twice.

    Args:
        pad_to_bucket: pad to the next size of `text_width`; no loss depends on it.
    """
    longest = max(len(text) for text in texts) + 1
    longest = text_width(longest, torch.device(device)) if pad_to_bucket else longest
    inputs = torch.full((len(texts), longest), EOS_ID)
    targets = torch.full((len(texts), longest), IGNORED)
    for row, text in enumerate(texts):
        inputs[row, : len(text) + 1] = torch.tensor([BOS_ID, *text])
        targets[row, : len(text) + 1] = torch.tensor([*text, EOS_ID])
    count = sum(len(text) + 1 for text in texts)
    return TargetBatch(inputs.to(device), targets, count)


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropy over all targets, in nats and in 32 bits.

    Args:
        logits: [..., V].
        targets: [...], `IGNORED` on padding.
    """
    return F.cross_entropy(
        logits.float().reshape(-1, logits.shape[-1]),
        targets.reshape(-1).to(logits.device),
        ignore_index=IGNORED,
        reduction="sum",
    )


class FrozenHead:
    """The frozen output head: logits of hidden states, and the gradient of the hidden states.

    Args:
        weight: [V, decoder width].
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.detach()

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, W] → [N, V] in 32 bits, without a graph."""
        return frozen_product(hidden, self._weight).float()

    def gradient(self, logits_gradient: Tensor) -> Tensor:
        """Gradient of the logits [N, V] → gradient of the hidden states [N, W]."""
        return back_product(logits_gradient.to(self._weight.dtype), self._weight)


class _HeadLoss(torch.autograd.Function):
    """Loss after a frozen output head, with the gradient computed in the forward pass.

    The head does not train, so the only gradient is d loss / d hidden = (p − q) · W, with the
    model's distribution p and the target distribution q (one-hot, or the teacher's). It is computed
    in chunks together with the logits: there is never a full [N, V] tensor, nothing is kept for the
    backward pass, and no logit is computed twice. Price: second derivatives are not defined.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: FrozenHead,
        targets: Tensor,
        teacher: Tensor | None,
        weights: Tensor | None,
    ) -> Tensor:
        gradient = torch.empty_like(hidden)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), _CHUNK):
            rows = slice(start, start + _CHUNK)
            log_probs = F.log_softmax(head.logits(hidden[rows]), dim=-1)
            own = None if weights is None else weights[rows, None]
            if teacher is None:
                ids = targets[rows, None]
                taken = log_probs.gather(1, ids)
                total -= (taken if own is None else taken * own).sum()
                difference = log_probs.exp_()
                difference.scatter_add_(1, ids, difference.new_full(ids.shape, -1.0))
                if own is not None:
                    difference *= own
            else:
                teacher_log_probs = F.log_softmax(head.logits(teacher[rows]), dim=-1)
                teacher_probs = teacher_log_probs.exp()
                divergence = teacher_probs * teacher_log_probs.sub_(log_probs)
                total += (divergence if own is None else divergence * own).sum()
                difference = log_probs.exp_().sub_(teacher_probs)
                if own is not None:
                    difference *= own
            gradient[rows] = head.gradient(difference).to(hidden.dtype)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype), None, None, None, None


def head_cross_entropy_sum(
    hidden: Tensor, head: FrozenHead, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Sum of the cross-entropy over all targets, in nats, from the decoder's hidden states.

    Args:
        hidden: [B, L, W], before the head.
        targets: [B, L], `IGNORED` on padding; fastest on the CPU.
        weights: [B, L], how much each target counts; None for 1.
    """
    (rows,), ids, own = _at_targets(targets, weights, hidden)
    loss: Tensor = _HeadLoss.apply(rows, head, ids, None, own)  # type: ignore[no-untyped-call]
    return loss


def head_kl_sum(hidden: Tensor, teacher: Tensor, head: FrozenHead, targets: Tensor) -> Tensor:
    """Sum of KL(teacher ‖ model) over all targets, in nats, from the hidden states of both.

    Args:
        hidden, teacher: [B, L, W], before the head, which both share.
        targets: [B, L], `IGNORED` on padding; fastest on the CPU.
    """
    (rows, teacher_rows), ids, own = _at_targets(targets, None, hidden, teacher)
    loss: Tensor = _HeadLoss.apply(rows, head, ids, teacher_rows, own)  # type: ignore[no-untyped-call]
    return loss


def _at_targets(
    targets: Tensor, weights: Tensor | None, *hidden: Tensor
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """The rows [N, W] of hidden states that have a target, their target ids and weights [N].

    Where shapes cost, the rows fill up whole chunks: those past the last target weigh nothing.
    """
    flat = targets.flatten()
    positions = (flat != IGNORED).nonzero()[:, 0]
    device, own = hidden[0].device, None
    if is_launch_bound(device):
        missing = -len(positions) % _CHUNK
        own = F.pad(torch.ones(len(positions)), (0, missing)).to(device)
        # Any row will do.
        positions = F.pad(positions, (0, missing))
    ids, positions = flat[positions].clamp(min=0).to(device), positions.to(device)
    if weights is not None:
        counted = weights.flatten().index_select(0, positions)
        own = counted if own is None else own * counted
    return [values.flatten(0, 1).index_select(0, positions) for values in hidden], ids, own

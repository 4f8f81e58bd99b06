"""Training losses, as sums with counts: divided once, per optimizer step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from moonshine_tune.core.device import round_up_to_bucket
from moonshine_tune.models.base import BOS_ID, EOS_ID
from moonshine_tune.models.kernels.frozen_linear import frozen_product

IGNORED = -100
# Places whose logits exist at a time: 128 x 32,768 numbers are 17 MB in 32 bits.
_CHUNK = 128


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


def target_batch(
    texts: Sequence[Sequence[int]], device: torch.device | str, *, pad_to_bucket: bool = False
) -> TargetBatch:
    """Explicit decoder inputs [bos] + text and targets text + [eos].

    Made here and never left to the model's `labels`: transformers before 5.15 shifts those twice.

    Args:
        pad_to_bucket: pad on to the next size of `round_up_to_bucket`; no loss depends on it.
    """
    longest = max(len(text) for text in texts) + 1
    longest = round_up_to_bucket(longest) if pad_to_bucket else longest
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


class FrozenHead:
    """The output head's products, forwards and back; it does not train.

    Args:
        weight: [V, decoder width].
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.detach()

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, W] → [N, V] in 32 bits; no graph."""
        return frozen_product(hidden, self._weight).float()

    def gradient(self, excess: Tensor) -> Tensor:
        """Gradient of the logits [N, V] → of the hidden states [N, W]."""
        return frozen_product(excess.to(self._weight.dtype), self._weight.T)


class _HeadLoss(torch.autograd.Function):
    """Loss behind a frozen output head, with the gradient made in the same pass.

    The head does not train, so all that flows back is d loss / d hidden = (p − q) · W, with p the
    model's distribution and q the wanted one (one-hot, or the teacher's). It is computed chunk by
    chunk while the logits are at hand: no [N, V] tensor ever exists whole or is kept for the
    backward pass, and no logit is computed twice. Price: gradients of gradients are not defined.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: FrozenHead, targets: Tensor, teacher: Tensor | None
    ) -> Tensor:
        gradient = torch.empty_like(hidden)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), _CHUNK):
            rows = slice(start, start + _CHUNK)
            spread = F.log_softmax(head.logits(hidden[rows]), dim=-1)
            if teacher is None:
                places = targets[rows, None]
                total -= spread.gather(1, places).sum()
                excess = spread.exp_()
                excess.scatter_add_(1, places, excess.new_full(places.shape, -1.0))
            else:
                wanted = F.log_softmax(head.logits(teacher[rows]), dim=-1)
                share = wanted.exp()
                total += (share * wanted.sub_(spread)).sum()
                excess = spread.exp_().sub_(share)
            gradient[rows] = head.gradient(excess).to(hidden.dtype)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype), None, None, None


def head_cross_entropy_sum(hidden: Tensor, head: FrozenHead, targets: Tensor) -> Tensor:
    """Σ cross-entropy over all targets that count, straight from the decoder's hidden states.

    Args:
        hidden: [B, L, W], before the head.
        targets: [B, L], `IGNORED` where nothing is to be predicted.
    """
    counts = targets != IGNORED
    loss: Tensor = _HeadLoss.apply(hidden[counts], head, targets[counts], None)  # type: ignore[no-untyped-call]
    return loss


def head_kl_sum(hidden: Tensor, teacher: Tensor, head: FrozenHead, targets: Tensor) -> Tensor:
    """Σ KL(teacher ‖ model) over all targets that count, in nats, from hidden states of both.

    Args:
        hidden, teacher: [B, L, W], before the head that both share.
        targets: [B, L], `IGNORED` where the place does not count.
    """
    counts = targets != IGNORED
    loss: Tensor = _HeadLoss.apply(hidden[counts], head, targets[counts], teacher[counts])  # type: ignore[no-untyped-call]
    return loss

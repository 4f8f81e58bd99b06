"""Losses: alignment of inputs and targets, sums, and padding without effect."""

import math
from collections.abc import Callable

import pytest
import torch

from moonshine_tune.audio.samples import Samples
from moonshine_tune.inference.batching import pad_clips
from moonshine_tune.inference.transcribe import TorchTranscriber
from moonshine_tune.models.base import BOS_ID, EOS_ID, DecodeLimits, SpeechModel
from moonshine_tune.models.losses import (
    IGNORED,
    FrozenHead,
    cross_entropy_sum,
    head_cross_entropy_sum,
    head_kl_sum,
    target_batch,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def _backward(loss: torch.Tensor) -> None:
    torch.autograd.backward(loss)


def _mean_loss(model: SpeechModel, clips: list[Samples], texts: list[str]) -> float:
    targets = target_batch([model.tokenizer.encode(text) for text in texts], model.device)
    with torch.inference_mode():
        states = model.encode(*pad_clips(clips, model.device))
        logits = model.decoder_logits(states, targets.input_ids)
        return float(cross_entropy_sum(logits, targets.targets)) / targets.num_targets


def test_four_memorized_clips_are_transcribed_exactly(
    overfitted: tuple[SpeechModel, list[Samples], list[str]],
) -> None:
    """A loss near 0 together with exact transcripts needs aligned inputs and targets."""
    model, clips, texts = overfitted
    assert _mean_loss(model, clips, texts) < 0.05
    assert TorchTranscriber(model, DecodeLimits(tokens_per_second=30)).transcribe(clips) == texts
    # The model uses the audio: with swapped texts the loss is far from 0.
    assert _mean_loss(model, clips, texts[1:] + texts[:1]) > 0.5


def test_an_untrained_model_has_the_loss_of_guessing(
    tiny_model: SpeechModel, make_clip: Callable[..., Samples]
) -> None:
    loss = _mean_loss(tiny_model, [make_clip(1.0)], ["it was the worst of times"])
    assert (
        0.5 * math.log(tiny_model.vocabulary_size) < loss < 3 * math.log(tiny_model.vocabulary_size)
    )


def test_targets_are_the_inputs_shifted_by_one() -> None:
    batch = target_batch([[7, 8, 9], [5]], "cpu")
    assert batch.input_ids.tolist() == [[BOS_ID, 7, 8, 9], [BOS_ID, 5, EOS_ID, EOS_ID]]
    assert batch.targets.tolist() == [[7, 8, 9, EOS_ID], [5, EOS_ID, IGNORED, IGNORED]]
    assert batch.num_targets == 6


def test_an_empty_text_has_its_end_as_target() -> None:
    batch = target_batch([[]], "cpu")
    assert (batch.input_ids.tolist(), batch.targets.tolist()) == ([[BOS_ID]], [[EOS_ID]])
    assert batch.num_targets == 1


def test_cross_entropy_is_a_sum_over_the_targets() -> None:
    logits = torch.randn(2, 3, 11, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([[4, 2, IGNORED], [9, IGNORED, IGNORED]])
    by_hand = -(
        logits[0, 0].log_softmax(0)[4] + logits[0, 1].log_softmax(0)[2]
        + logits[1, 0].log_softmax(0)[9]
    )  # fmt: skip
    assert float(cross_entropy_sum(logits, targets)) == pytest.approx(float(by_hand), rel=1e-6)


def test_padding_has_no_gradient() -> None:
    logits = torch.zeros(1, 3, 5, requires_grad=True)
    targets = torch.tensor([[1, IGNORED, IGNORED]])
    _backward(cross_entropy_sum(logits, targets))
    assert logits.grad is not None
    assert logits.grad[0, 0].abs().sum() > 0
    assert logits.grad[0, 1:].abs().sum() == 0


def test_sums_of_parts_add_up() -> None:
    logits = torch.randn(4, 6, 17, generator=torch.Generator().manual_seed(2))
    targets = torch.randint(0, 17, (4, 6), generator=torch.Generator().manual_seed(3))
    targets[1, 2:] = IGNORED
    parts = sum(float(cross_entropy_sum(logits[i : i + 1], targets[i : i + 1])) for i in range(4))
    assert float(cross_entropy_sum(logits, targets)) == pytest.approx(parts, rel=1e-5)


def test_half_precision_logits_are_summed_in_32_bits() -> None:
    logits = torch.randn(64, 300, generator=torch.Generator().manual_seed(4))
    targets = torch.arange(64)
    rough = cross_entropy_sum(logits.bfloat16(), targets)
    assert rough.dtype == torch.float32
    assert float(rough) == pytest.approx(float(cross_entropy_sum(logits, targets)), rel=1e-3)


# --- the loss from hidden states, in chunks, with its gradient

_WIDTH, _WORDS = 8, 23


def _hidden(rows: int, length: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, length, _WIDTH, generator=generator)


def _head() -> torch.Tensor:
    return torch.randn(_WORDS, _WIDTH, generator=torch.Generator().manual_seed(100))


def _targets(rows: int, length: int) -> torch.Tensor:
    """Rows of decreasing length: the rest of each is padding."""
    targets = torch.randint(0, _WORDS, (rows, length), generator=torch.Generator().manual_seed(101))
    for row in range(rows):
        targets[row, length - row * length // (rows + 1) :] = IGNORED
    return targets


def _kl_by_torch(
    hidden: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    counts = targets != IGNORED
    return torch.nn.functional.kl_div(
        (hidden[counts] @ weight.T).log_softmax(-1), (teacher[counts] @ weight.T).log_softmax(-1),
        reduction="sum", log_target=True,
    )  # fmt: skip


# 100 positions are less than a chunk, 400 are several and a remainder.
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (4, 25), (8, 50)])
@pytest.mark.parametrize("kind", ["cross-entropy", "kl"])
def test_value_and_gradient_are_those_of_the_full_logits(rows: int, length: int, kind: str) -> None:
    weight, targets, teacher = _head(), _targets(rows, length), _hidden(rows, length, 9)
    mine, theirs = _hidden(rows, length, 1), _hidden(rows, length, 1)
    mine.requires_grad_(True)
    theirs.requires_grad_(True)
    head = FrozenHead(weight)
    if kind == "kl":
        result = head_kl_sum(mine, teacher, head, targets)
        reference = _kl_by_torch(theirs, teacher, weight, targets)
    else:
        result = head_cross_entropy_sum(mine, head, targets)
        reference = cross_entropy_sum(theirs @ weight.T, targets)
    torch.testing.assert_close(result, reference, rtol=1e-5, atol=1e-5)
    # Divided and weighted afterwards, as in the training loop.
    _backward(result * 0.25)
    _backward(reference * 0.25)
    assert mine.grad is not None
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    assert mine.grad[targets == IGNORED].abs().sum() == 0


def test_the_frozen_head_gets_no_gradient() -> None:
    hidden, weight = _hidden(2, 3, 1).requires_grad_(True), _head().requires_grad_(True)
    _backward(head_cross_entropy_sum(hidden, FrozenHead(weight), _targets(2, 3)))
    assert hidden.grad is not None
    assert weight.grad is None


def test_kl_of_equal_states_is_zero_and_never_below() -> None:
    hidden, weight, targets = _hidden(3, 7, 5), _head(), _targets(3, 7)
    still = hidden.clone().requires_grad_(True)
    loss = head_kl_sum(still, hidden, FrozenHead(weight), targets)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    _backward(loss)
    assert still.grad is not None
    assert float(still.grad.abs().max()) < 1e-5
    assert float(head_kl_sum(hidden.flip(-1), hidden, FrozenHead(weight), targets)) > 0.1


def test_kl_is_that_of_the_teacher_to_the_student() -> None:
    """The direction matters: KL(teacher ‖ student), by hand, for two words."""
    weight = torch.eye(2)
    student, teacher = (
        torch.log(torch.tensor([[[0.5, 0.5]]])),
        torch.log(torch.tensor([[[0.9, 0.1]]])),
    )
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    result = head_kl_sum(student, teacher, FrozenHead(weight), torch.tensor([[0]]))
    assert float(result) == pytest.approx(expected, rel=1e-5)


def test_half_precision_states_give_a_loss_in_32_bits() -> None:
    hidden, weight, targets = _hidden(4, 40, 3), _head(), _targets(4, 40)
    rough = hidden.bfloat16().requires_grad_(True)
    result = head_cross_entropy_sum(rough, FrozenHead(weight.bfloat16()), targets)
    assert result.dtype == torch.float32
    exact = head_cross_entropy_sum(hidden, FrozenHead(weight), targets)
    assert float(result.detach()) == pytest.approx(float(exact), rel=1e-2)
    _backward(result)
    assert rough.grad is not None
    assert rough.grad.dtype == torch.bfloat16

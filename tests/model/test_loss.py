"""Losses: right alignment, sums that add up, padding that does not count."""

import math
from collections.abc import Callable

import pytest
import torch

from moonshine_tune.decode import DecodeLimits, Samples, pad_clips, transcribe_batch
from moonshine_tune.families.interface import BOS_ID, EOS_ID, SpeechModel
from moonshine_tune.loss import IGNORED, cross_entropy_sum, kl_to_teacher_sum, target_batch

pytestmark = pytest.mark.usefixtures("one_thread")


def _mean_loss(model: SpeechModel, clips: list[Samples], texts: list[str]) -> float:
    targets = target_batch([model.tokenizer.encode(text) for text in texts], model.device)
    with torch.inference_mode():
        states = model.encode(*pad_clips(clips, model.device))
        logits = model.decoder_logits(states, targets.input_ids)
        return float(cross_entropy_sum(logits, targets.targets)) / targets.num_targets


def test_four_clips_learnt_by_heart_are_said_again(
    overfitted: tuple[SpeechModel, list[Samples], list[str]],
) -> None:
    """Only inputs and targets that are aligned can reach both: a loss near 0 and the texts."""
    model, clips, texts = overfitted
    assert _mean_loss(model, clips, texts) < 0.05
    assert transcribe_batch(model, clips, DecodeLimits(tokens_per_second=30)) == texts
    # The model listens: with the texts changed round, the loss is far from 0.
    assert _mean_loss(model, clips, texts[1:] + texts[:1]) > 1.0


def test_an_untrained_model_loses_about_as_much_as_guessing(
    tiny_model: SpeechModel, make_clip: Callable[..., Samples]
) -> None:
    loss = _mean_loss(tiny_model, [make_clip(1.0)], ["it was the worst of times"])
    assert 0.5 * math.log(tiny_model.vocabulary_size) < loss < 3 * math.log(
        tiny_model.vocabulary_size
    )


def test_targets_are_the_inputs_one_place_on() -> None:
    batch = target_batch([[7, 8, 9], [5]], "cpu")
    assert batch.input_ids.tolist() == [[BOS_ID, 7, 8, 9], [BOS_ID, 5, EOS_ID, EOS_ID]]
    assert batch.targets.tolist() == [[7, 8, 9, EOS_ID], [5, EOS_ID, IGNORED, IGNORED]]
    assert batch.num_targets == 6


def test_an_empty_text_has_its_end_as_target() -> None:
    batch = target_batch([[]], "cpu")
    assert (batch.input_ids.tolist(), batch.targets.tolist()) == ([[BOS_ID]], [[EOS_ID]])
    assert batch.num_targets == 1


def test_cross_entropy_is_a_sum_over_what_counts() -> None:
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
    cross_entropy_sum(logits, targets).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].abs().sum() > 0
    assert logits.grad[0, 1:].abs().sum() == 0


def test_sums_of_parts_are_the_sum_of_the_whole() -> None:
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


def test_kl_of_equal_logits_is_zero_and_never_below() -> None:
    logits = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(5))
    targets = torch.tensor([[1, 2, IGNORED], [3, IGNORED, IGNORED]])
    assert float(kl_to_teacher_sum(logits, logits, targets)) == pytest.approx(0, abs=1e-6)
    # A constant added to all logits of a place is the same distribution.
    assert float(kl_to_teacher_sum(logits + 3, logits, targets)) == pytest.approx(0, abs=1e-5)
    assert float(kl_to_teacher_sum(logits.flip(-1), logits, targets)) > 0.1


def test_kl_is_that_of_the_teacher_to_the_student() -> None:
    """The direction matters: KL(teacher ‖ student), by hand, for two words."""
    student, teacher = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.9, 0.1]]))
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    found = kl_to_teacher_sum(student, teacher, torch.tensor([0]))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_kl_ignores_padding() -> None:
    logits = torch.randn(1, 2, 9, generator=torch.Generator().manual_seed(6), requires_grad=True)
    teacher = torch.randn(1, 2, 9, generator=torch.Generator().manual_seed(7))
    whole = kl_to_teacher_sum(logits, teacher, torch.tensor([[3, IGNORED]]))
    first = kl_to_teacher_sum(logits[:, :1], teacher[:, :1], torch.tensor([[3]]))
    assert float(whole.detach()) == pytest.approx(float(first.detach()), rel=1e-6)
    whole.backward()
    assert logits.grad is not None
    assert logits.grad[0, 1].abs().sum() == 0

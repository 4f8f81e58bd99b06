"""Training steps and decoding on a device, compared with the CPU: the code that `train` runs.

An adapter with B ≠ 0 on every site, cross-entropy and KL to the base through the frozen head,
clipping and AdamW, on short clips, on longer ones, and on the short ones again; then the logits of
greedy decoding. Parts of it have been wrong on accelerators where a plain gradient was right.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moonshine_tune.core.flat_adamw import adamw, clip_gradients
from moonshine_tune.doctor.gradients import (
    GRADIENT_BOUND,
    LOSS_BOUND,
    MIXED_GRADIENT_BOUND,
    MIXED_LOSS_BOUND,
    LoadModel,
    noise_clips,
    random_texts,
)
from moonshine_tune.inference.decoder_session import GreedySession
from moonshine_tune.models.base import BOS_ID, EncoderStates, SpeechModel
from moonshine_tune.models.lora import adapter_disabled, adapter_parameters, inject_lora
from moonshine_tune.models.losses import (
    FrozenHead,
    head_cross_entropy_sum,
    head_kl_sum,
    target_batch,
)

# The longer clips are attended in blocks of the window; the first shape comes again at the end.
_SHORT, _LONG = (1.6, 1.1), (8.0, 6.1)
_PASSES = (("short clips", _SHORT), ("long clips", _LONG), ("short clips again", _SHORT))
_TOKENS_PER_SECOND = 6
_DECODED_TOKENS = 20
# Small, so that what differs in one pass hardly changes the next.
_RATE, _SPREAD = 1e-4, 0.02
# The KL of an adapter that changes little is small, and rounding is a large share of it.
_LEAST_LOSS = 0.5


@dataclass(frozen=True)
class PassComparison:
    """A forward and backward pass, relative to the CPU's.

    Attributes:
        loss: difference of cross-entropy or KL, whichever is larger.
        gradient: of the adapter's gradient, after clipping.
        seconds, reference_seconds: on the device, and on the CPU.
    """

    name: str
    loss: float
    gradient: float
    seconds: float
    reference_seconds: float


@dataclass(frozen=True)
class TrainingComparison:
    """Passes and decoded logits of a device, relative to the CPU's.

    Attributes:
        logits: of the first tokens of greedy decoding.
    """

    passes: tuple[PassComparison, ...]
    logits: float
    mixed: bool

    @property
    def wrong(self) -> tuple[str, ...]:
        """What differs by more than rounding, in words."""
        loss, gradient = (
            (MIXED_LOSS_BOUND, MIXED_GRADIENT_BOUND) if self.mixed else (LOSS_BOUND, GRADIENT_BOUND)
        )
        # NaN is within no bound.
        parts = [
            f"{item.name}: loss differs by {item.loss:.1e}, gradient by {item.gradient:.1e}"
            for item in self.passes
            if not (item.loss <= loss and item.gradient <= gradient)
        ]
        if not self.logits <= gradient:
            parts.append(f"decoding: logits differ by {self.logits:.1e}")
        return tuple(parts)

    @property
    def summary(self) -> str:
        """The largest differences, for a report."""
        loss = max(item.loss for item in self.passes)
        gradient = max(item.gradient for item in self.passes)
        return (
            f"loss differs by {loss:.1e}, gradients by {gradient:.1e}, logits of "
            f"{_DECODED_TOKENS} tokens by {self.logits:.1e}"
        )

    @property
    def timing(self) -> str:
        """Seconds of a training step on each batch of clips; the first ones compile kernels."""
        return "; ".join(
            f"{item.name} {item.seconds:.2f} s (CPU {item.reference_seconds:.2f} s)"
            for item in self.passes
        )


@dataclass(frozen=True)
class _Measured:
    """Losses, and the adapter's gradient, of one pass; on the CPU in 64 bits."""

    losses: Tensor
    gradient: Tensor
    seconds: float


def compare_training(
    load: LoadModel, device: torch.device, *, frozen: torch.dtype = torch.float32
) -> TrainingComparison:
    """Train and decode on `device` and on the CPU; nothing is written.

    Args:
        load: loads a model with the same weights on a device in a number format.
        frozen: format of the device's frozen weights; the CPU takes the same ones in 32 bits.
    """
    mixed = frozen != torch.float32
    reference = load(torch.device("cpu"), frozen)
    reference.module.float()
    expected = _train(reference)
    tokens, expected_logits = _decode(reference, None)
    # Only one model at a time is in memory.
    del reference
    model = load(device, frozen)
    measured = _train(model)
    _, logits = _decode(model, tokens)
    passes = tuple(
        PassComparison(
            name,
            max(_relative(here.losses[i], there.losses[i], _LEAST_LOSS) for i in range(2)),
            _relative(here.gradient, there.gradient),
            here.seconds,
            there.seconds,
        )
        for (name, _), here, there in zip(_PASSES, measured, expected, strict=True)
    )
    return TrainingComparison(passes, _relative(logits, expected_logits), mixed)


def _train(model: SpeechModel) -> list[_Measured]:
    """A step on each batch of clips: losses and gradients."""
    inject_lora(model, rank=8, sites="all", seed=1)
    parameters = [value for _, value in adapter_parameters(model.module)]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in adapter_parameters(model.module):
            if ".lora_B." in name:
                # B starts at zero: nothing of the adapter would be seen.
                value.copy_(_SPREAD * torch.randn(value.shape, generator=generator))
    optimizer = adamw([{"params": parameters}], model.device, lr=_RATE)
    head = FrozenHead(model.head_weight)
    model.module.train()
    results = []
    for _, seconds in _PASSES:
        start_time = time.monotonic()
        losses = _losses(model, head, seconds)
        gradients = torch.autograd.grad(losses.sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        clip_gradients(optimizer, parameters, 1.0)
        updated = [value for group in optimizer.param_groups for value in group["params"]]
        parts = [value.grad.flatten().to("cpu") for value in updated if value.grad is not None]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # Reading waits for the device.
        values = losses.detach().to("cpu").double()
        gradient = torch.cat(parts).double()
        results.append(_Measured(values, gradient, time.monotonic() - start_time))
    return results


def _losses(model: SpeechModel, head: FrozenHead, seconds: Sequence[float]) -> Tensor:
    """Cross-entropy, and KL to the base model, per token, [2]."""
    states = _encode(model, seconds)
    counts = [round(length * _TOKENS_PER_SECOND) for length in seconds]
    batch = target_batch(
        random_texts(model.vocabulary_size, counts), model.device, pad_to_bucket=True
    )
    hidden = model.decoder_hidden(states, batch.input_ids)
    with torch.no_grad(), adapter_disabled(model):
        teacher = model.decoder_hidden(states, batch.input_ids)
    return torch.stack(
        [
            head_cross_entropy_sum(hidden, head, batch.targets) / batch.num_targets,
            head_kl_sum(hidden, teacher, head, batch.targets) / batch.num_targets,
        ]
    )


def _encode(model: SpeechModel, seconds: Sequence[float]) -> EncoderStates:
    audio, lengths = noise_clips(seconds)
    return model.encode(audio.to(model.dtype).to(model.device), lengths)


@torch.inference_mode()
def _decode(model: SpeechModel, tokens: Tensor | None) -> tuple[Tensor, Tensor]:
    """The tokens [B, L] that are fed, and the logits [B, L, V] after each, on the CPU.

    Args:
        tokens: None feeds what greedy decoding chooses.
    """
    model.module.eval()
    session = GreedySession(model, _encode(model, tuple(sorted(_SHORT))), _DECODED_TOKENS)
    fed, logits = torch.full((len(_SHORT),), BOS_ID), []
    chosen = []
    for position in range(_DECODED_TOKENS):
        if tokens is not None:
            fed = tokens[:, position]
        chosen.append(fed)
        logits.append(session.step(fed.to(model.device)).to("cpu").double())
        fed = logits[-1].argmax(dim=-1)
    return torch.stack(chosen, dim=1), torch.stack(logits, dim=1)


def _relative(value: Tensor, expected: Tensor, least: float = 1e-12) -> float:
    """‖value − expected‖ ÷ ‖expected‖, which counts as `least` at least; infinite for NaN."""
    difference = float((value - expected).norm() / expected.norm().clamp(min=least))
    return difference if difference == difference else float("inf")

"""Loss and gradients of a Moonshine model on a device, compared with a trusted reference.

Accelerators have computed silently wrong gradients (activations on slices, attention with masks); a
training run shows this only as a model that does not learn. The reference is the CPU in 32 bits,
and in 64 bits for the CPU itself.
"""

import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.device import autocast
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.losses import cross_entropy_sum, target_batch
from moonshine_tune.registry.published_configs import model_from_config, published_config

# Rounding over a dozen layers gives about 1e-6 in the loss and 1e-5 in the gradients; reported
# faults give 1e-1 and more. The bounds are far from both.
LOSS_BOUND = 1e-3
GRADIENT_BOUND = 1e-2
# bfloat16 has 8 significant bits: rounding changes the loss by about 1e-3 and the gradients by a
# few percent, single small tensors by more.
MIXED_LOSS_BOUND, MIXED_GRADIENT_BOUND, MIXED_TENSOR_BOUND = 2e-2, 0.1, 0.5

# Two clips of different lengths, so that the masks are used.
_CLIP_SECONDS = (1.6, 1.1)
_TOKENS_PER_CLIP = (12, 7)
_FALLBACK = re.compile(r"'?(aten::[\w.]+)'?.*(?:fall back|falling back) to run on the CPU", re.S)
# A gradient smaller than this share of the overall norm is rounding noise.
_NEGLIGIBLE = 1e-3

LoadModel = Callable[[torch.device, torch.dtype], SpeechModel]


@dataclass(frozen=True)
class GradientComparison:
    """Loss and gradients of a device against the reference.

    Attributes:
        loss_difference, gradient_difference: relative.
        worst_difference: relative, of the gradient of the single tensor `worst_tensor`.
        fallback_operators: operators without an MPS kernel, which ran on the CPU.
    """

    device: str
    reference: str
    loss: float
    reference_loss: float
    loss_difference: float
    gradient_difference: float
    worst_tensor: str
    worst_difference: float
    fallback_operators: tuple[str, ...]
    seconds: float
    mixed: bool = False

    @property
    def agrees(self) -> bool:
        """Whether all differences are finite and within their bounds."""
        bounds = (
            (MIXED_LOSS_BOUND, MIXED_GRADIENT_BOUND, MIXED_TENSOR_BOUND)
            if self.mixed
            else (LOSS_BOUND, GRADIENT_BOUND, GRADIENT_BOUND)
        )
        values = (self.loss_difference, self.gradient_difference, self.worst_difference)
        return all(value <= bound for value, bound in zip(values, bounds, strict=True))


def compare_with_cpu(
    load: LoadModel, device: torch.device, *, mixed: bool = False
) -> GradientComparison:
    """Run the same two clips on `device` and on the reference; nothing is trained or written.

    Args:
        load: loads a model with the same weights on a device in a number format.
        mixed: use bfloat16 autocast on `device`.
    """
    on_cpu = device.type == "cpu"
    reference_dtype = torch.float64 if on_cpu else torch.float32
    reference_loss, reference = _loss_and_gradients(load(torch.device("cpu"), reference_dtype))
    # Only one model at a time is in memory: the reference's weights are freed by now.
    start_time = time.monotonic()
    fallbacks, (loss, gradients) = _recording_fallbacks(
        lambda: _loss_and_gradients(load(device, torch.float32), mixed=mixed)
    )
    seconds = time.monotonic() - start_time
    overall = _norm(torch.stack([gradient.norm() for gradient in reference.values()]))
    difference = {name: float((gradients[name] - reference[name]).norm()) for name in reference}
    relative = {
        name: difference[name] / max(float(reference[name].norm()), _NEGLIGIBLE * overall)
        for name in reference
    }
    # NaN compares as neither larger nor smaller, but must be the worst.
    worst = max(relative, key=lambda name: _nan_as_infinite(relative[name]))
    total = _norm(torch.tensor(list(difference.values()), dtype=torch.float64))
    return GradientComparison(
        device=str(device),
        reference=f"cpu {str(reference_dtype).removeprefix('torch.')}",
        loss=loss,
        reference_loss=reference_loss,
        loss_difference=abs(loss - reference_loss) / max(abs(reference_loss), 1e-9),
        gradient_difference=total / max(overall, 1e-30),
        worst_tensor=worst,
        worst_difference=relative[worst],
        fallback_operators=fallbacks,
        seconds=seconds,
        mixed=mixed,
    )


def random_model(device: torch.device, dtype: torch.dtype) -> SpeechModel:
    """A model of tiny's shape with seeded random weights, for machines without the real one."""
    attention = "eager" if device.type == "mps" else "sdpa"
    config = published_config("tiny")
    model = model_from_config(config, device=device, dtype=dtype, attention=attention)
    if device.type == "mps":
        # As in training.
        model.make_activation_inputs_contiguous()
    return model


def _loss_and_gradients(
    model: SpeechModel, *, mixed: bool = False
) -> tuple[float, dict[str, Tensor]]:
    """Mean loss and the gradient of every parameter, in 64 bits on the CPU."""
    model.module.requires_grad_(True)
    parameters = dict(model.module.named_parameters())
    audio, lengths = noise_clips(_CLIP_SECONDS)
    batch = target_batch(random_texts(model.vocabulary_size, _TOKENS_PER_CLIP), model.device)
    # Number format first, then device: MPS has no 64-bit floats.
    with autocast(model.device, torch.bfloat16 if mixed else torch.float32):
        states = model.encode(audio.to(model.dtype).to(model.device), lengths)
        logits = model.decoder_logits(states, batch.input_ids)
    loss = cross_entropy_sum(logits, batch.targets) / batch.num_targets
    results = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    gradients = {
        name: gradient.detach().to("cpu").double()
        for name, gradient in zip(parameters, results, strict=True)
        if gradient is not None
    }
    return float(loss.detach()), gradients


def noise_clips(seconds: Sequence[float]) -> tuple[Tensor, list[int]]:
    """Seeded noise with a slow envelope [B, S] in 64 bits, zero-padded, and each clip's samples."""
    lengths = [int(length * SAMPLE_RATE_HZ) // 80 * 80 for length in seconds]
    generator = torch.Generator().manual_seed(7)
    audio = torch.zeros(len(lengths), max(lengths), dtype=torch.float64)
    for row, length in enumerate(lengths):
        noise = torch.randn(length, generator=generator, dtype=torch.float64)
        envelope = torch.sin(torch.linspace(0, 9, length, dtype=torch.float64)).abs()
        audio[row, :length] = 0.1 * noise * envelope
    return audio, lengths


def random_texts(vocabulary_size: int, counts: Sequence[int]) -> list[list[int]]:
    """Seeded token ids, without special ones: a text of each of these lengths."""
    generator = torch.Generator().manual_seed(11)
    top = min(vocabulary_size, 30_000)
    return [torch.randint(300, top, (count,), generator=generator).tolist() for count in counts]


def _recording_fallbacks(
    work: Callable[[], tuple[float, dict[str, Tensor]]],
) -> tuple[tuple[str, ...], tuple[float, dict[str, Tensor]]]:
    """Operators for which torch warned of a fallback to the CPU, and the result of `work`."""
    # By default torch warns only once.
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = work()
    finally:
        torch.set_warn_always(before)
    matches = (_FALLBACK.search(str(warning.message)) for warning in caught)
    return tuple(sorted({match.group(1) for match in matches if match})), result


def _norm(values: Tensor) -> float:
    return float(values.double().norm())


def _nan_as_infinite(value: float) -> float:
    return value if value == value else float("inf")

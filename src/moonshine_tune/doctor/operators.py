"""Operators that have been wrong on accelerators, each on a device and on the CPU.

A training run can show such a fault as nothing but slow learning. Here each has a name, the shapes
in which it was reported, and the report.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from moonshine_tune.core.flat_adamw import adamw, clip_gradients

# Rounding gives about 1e-6; reported faults give 1e-1 and more.
_BOUND = 1e-3


@dataclass(frozen=True)
class OperatorFault:
    """An operator whose result differs from the CPU's.

    Attributes:
        report: where the fault was reported first, if it is known.
        difference: relative; infinite where the device gives NaN, or no result.
    """

    name: str
    report: str
    difference: float

    def __str__(self) -> str:
        known = f" ({self.report})" if self.report else ""
        return f"{self.name}{known} differs by {self.difference:.1e}"


def wrong_operators(device: torch.device) -> tuple[OperatorFault, ...]:
    """The operators that `device` computes otherwise than the CPU."""
    faults = []
    for probe in PROBES:
        expected, difference = probe.run(torch.device("cpu")), math.inf
        with suppress(Exception):
            difference = _difference(expected, probe.run(device))
        # NaN is within no bound.
        if not difference <= _BOUND:
            faults.append(OperatorFault(probe.name, probe.report, difference))
    return tuple(faults)


def _difference(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """The largest relative difference of a tensor."""
    differences = []
    for here, there in zip(expected, actual, strict=True):
        distance = (there.detach().to("cpu").double() - here.detach().double()).norm()
        differences.append(float(distance / here.detach().double().norm().clamp(min=1e-12)))
    return max(value if value == value else math.inf for value in differences)


@dataclass(frozen=True)
class _Probe:
    """What to compute, the same numbers on every device."""

    name: str
    report: str
    run: Callable[[torch.device], Sequence[Tensor]]


def _numbers(device: torch.device, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(device)


def _linear_of_a_transposed_weight(device: torch.device) -> list[Tensor]:
    rows, weight = _numbers(device, 5, 24), _numbers(device, 24, 40)
    return [F.linear(rows, weight.T), F.linear(_numbers(device, 2, 5, 24), weight.T)]


def _attention_of_one_query(device: torch.device) -> list[Tensor]:
    """As decoding calls it: views of wider keys, of which some are filled."""
    keys, values = _numbers(device, 2, 4, 96, 16), _numbers(device, 2, 4, 96, 16, seed=1)
    query = _numbers(device, 2, 4, 1, 16)
    with torch.no_grad():
        return [
            F.scaled_dot_product_attention(query, keys[:, :, :count], values[:, :, :count])
            for count in (1, 7, 32, 33, 65)
        ]


def _masked_softmax(device: torch.device) -> list[Tensor]:
    scores = _numbers(device, 2, 4, 6, 41).requires_grad_(True)
    ends = torch.tensor([41, 17], device=device)
    outside = torch.arange(41, device=device)[None, :] >= ends[:, None]
    mask = torch.zeros(2, 41, device=device)
    mask = mask.masked_fill(outside, torch.finfo(torch.float32).min)
    shares = (scores + mask[:, None, None]).softmax(dim=-1)
    (gradient,) = torch.autograd.grad((shares * _numbers(device, 41)).sum(), scores)
    return [shares, gradient]


def _product_over_the_vocabulary(device: torch.device) -> list[Tensor]:
    """As the head's gradient: 32,768 numbers are added up for each result."""
    rows, matrix = _numbers(device, 6, 32_768), _numbers(device, 32_768, 24)
    return [rows @ matrix, F.linear(rows, matrix.T.contiguous())]


def _gradient_of_a_slice(device: torch.device) -> list[Tensor]:
    values = _numbers(device, 2, 9, 64).requires_grad_(True)
    gated, gate = values.chunk(2, dim=-1)
    total = (F.silu(gate) * gated).sum() + F.gelu(values[:, 1:]).square().sum()
    return list(torch.autograd.grad(total, values))


def _gradients_after_another_shape(device: torch.device) -> list[Tensor]:
    """A small shape, a larger one, and the small one again."""
    weight = _numbers(device, 32, 32).requires_grad_(True)
    gain = _numbers(device, 32, seed=1).requires_grad_(True)
    results: list[Tensor] = []
    for length in (5, 70, 5):
        rows = _numbers(device, 2, length, 32)
        hidden = F.layer_norm(F.linear(rows, weight), (32,), gain)
        shares = (hidden @ hidden.transpose(1, 2) / 6).softmax(dim=-1)
        total = (shares @ F.silu(hidden) + F.gelu(hidden)).square().mean()
        results += torch.autograd.grad(total, [weight, gain])
    return results


def _convolution(device: torch.device) -> list[Tensor]:
    audio = _numbers(device, 2, 1, 4_000).requires_grad_(True)
    kernel = _numbers(device, 16, 1, 127).requires_grad_(True)
    result = F.group_norm(F.conv1d(audio, kernel, stride=64).tanh(), 1)
    return [result, *torch.autograd.grad(result.square().sum() + result.sum(), [audio, kernel])]


def _loss_over_the_vocabulary(device: torch.device) -> list[Tensor]:
    logits = _numbers(device, 7, 1_000)
    ids = torch.arange(7, device=device)[:, None] * 97
    log_probs = F.log_softmax(logits, dim=-1)
    picked = log_probs.gather(1, ids)
    ones = log_probs.new_full(ids.shape, -1.0)
    return [picked, log_probs.exp().scatter_add_(1, ids, ones)]


def _clipping_and_optimizer(device: torch.device) -> list[Tensor]:
    """Three steps on given gradients."""
    values = [_numbers(device, 8, 24).requires_grad_(True), _numbers(device, 24, 8)]
    values[1].requires_grad_(True)
    optimizer = adamw([{"params": values}], device, lr=1e-2)
    norms = []
    for step in range(3):
        for value in values:
            value.grad = _numbers(device, *value.shape, seed=step + 5)
        norms.append(clip_gradients(optimizer, values, 1.0))
        optimizer.step()
    return [*values, *norms]


PROBES = (
    _Probe("F.linear of a transposed weight", "pytorch#162730", _linear_of_a_transposed_weight),
    _Probe("attention of one query", "pytorch#169222", _attention_of_one_query),
    _Probe("a masked softmax", "", _masked_softmax),
    _Probe("a product over 32,768 numbers", "", _product_over_the_vocabulary),
    _Probe("the gradient of an activation on a slice", "", _gradient_of_a_slice),
    _Probe("gradients after another shape", "pytorch#177116", _gradients_after_another_shape),
    _Probe("a convolution", "", _convolution),
    _Probe("the loss over the vocabulary", "", _loss_over_the_vocabulary),
    _Probe("clipping and AdamW", "", _clipping_and_optimizer),
)
"""All probes; a device that is right agrees with the CPU in each."""

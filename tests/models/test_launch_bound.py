"""The path for devices on which kernels and shapes cost computes what the plain path computes.

Here on the CPU; `tests/pretended_mps` runs it as a device.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from moonshine_tune.core import device as device_module
from moonshine_tune.inference.batching import encode_clips
from moonshine_tune.inference.greedy import greedy_tokens
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.kernels.lora_linear import FeatureDropout
from moonshine_tune.models.lora import AdapterDropout, adapter_parameters, inject_lora
from moonshine_tune.models.losses import (
    FrozenHead,
    head_cross_entropy_sum,
    head_kl_sum,
    target_batch,
)

_MODULES = (
    "core.device", "models.base", "models.losses", "models.lora", "models.kernels.lora_linear",
    "models.kernels.packed_linear", "models.kernels.rotary", "inference.batching",
    "inference.decoder_session",
)  # fmt: skip
_TEXTS = [[70, 71, 72, 73, 74], [75], [76, 77]]


@pytest.fixture
def launch_bound(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """`launch_bound()`: from now on the CPU counts as such a device."""

    def start() -> None:
        for name in _MODULES:
            module = importlib.import_module(f"moonshine_tune.{name}")
            monkeypatch.setattr(module, "is_launch_bound", lambda device: True)

    return start


def _adapted(model: SpeechModel) -> SpeechModel:
    inject_lora(model, rank=4, sites="all", alpha=10, seed=2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in adapter_parameters(model.module):
            if ".lora_B." in name:
                value.copy_(0.05 * torch.randn(value.shape, generator=generator))
    return model


def _clips(make_clip: Any) -> list[Any]:
    return [make_clip(seconds, seed) for seed, seconds in enumerate((1.3, 0.7, 1.1))]


def _losses_and_gradients(model: SpeechModel, clips: list[Any]) -> list[torch.Tensor]:
    """Cross-entropy with weights, KL to other states, and the adapter's gradients."""
    states = encode_clips(model, clips)
    batch = target_batch(_TEXTS, "cpu", pad_to_bucket=True)
    hidden = model.decoder_hidden(states, batch.input_ids)
    head = FrozenHead(model.head_weight)
    weights = (1 + 0.1 * torch.arange(batch.targets.shape[1])).expand(batch.targets.shape)
    losses = [
        head_cross_entropy_sum(hidden, head, batch.targets),
        head_cross_entropy_sum(hidden, head, batch.targets, weights),
        head_kl_sum(hidden, hidden.detach().flip(-1), head, batch.targets),
    ]
    parameters = [value for _, value in adapter_parameters(model.module)]
    gradients = torch.autograd.grad(torch.stack(losses).sum(), parameters)
    return [*(item.detach() for item in losses), *gradients]


def test_losses_and_gradients_are_the_same(
    tiny_model: SpeechModel, make_clip: Any, launch_bound: Callable[[], None]
) -> None:
    model, clips = _adapted(tiny_model), _clips(make_clip)
    expected = _losses_and_gradients(model, clips)
    launch_bound()
    results = _losses_and_gradients(model, clips)
    for result, value in zip(results, expected, strict=True):
        assert torch.allclose(result, value, rtol=1e-3, atol=1e-4 * float(value.abs().max()))


def test_transcripts_are_the_same(
    tiny_model: SpeechModel, make_clip: Any, launch_bound: Callable[[], None]
) -> None:
    """Five clips fill a batch of six; keys are padded, and rows leave in common sizes."""
    model = _adapted(tiny_model)
    clips = [*_clips(make_clip), *(np.concatenate(_clips(make_clip)[:2]) for _ in range(2))]
    limits = [3, 18, 34, 2, 1]

    def transcripts() -> list[list[int]]:
        def without_end(logits: torch.Tensor) -> torch.Tensor:
            return logits[:, 3:].argmax(dim=-1) + 3

        with torch.inference_mode():
            return greedy_tokens(model, encode_clips(model, clips), limits, without_end)

    expected = transcripts()
    assert [len(text) for text in expected] == limits
    launch_bound()
    assert transcripts() == expected


def test_masks_of_dropout_are_drawn_together(
    tiny_v1: SpeechModel, launch_bound: Callable[[], None]
) -> None:
    inject_lora(tiny_v1, rank=2, dropout=0.5)
    tiny_v1.module.train()
    layers = [part for part in tiny_v1.module.modules() if isinstance(part, FeatureDropout)]
    dropout = AdapterDropout(tiny_v1)
    dropout.draw()
    assert all(layer._drawn is None for layer in layers), "the CPU draws them one by one"
    launch_bound()
    dropout.draw()
    first = [layer(torch.ones(2, 32))[0] for layer in layers if layer._drawn.shape == (32,)]
    again = [layer(torch.ones(2, 32))[0] for layer in layers if layer._drawn.shape == (32,)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert {float(value) for mask in first for value in mask} == {0.0, 2.0}
    assert not torch.equal(first[0], first[1])
    dropout.draw()
    assert not torch.equal(first[0], layers[0](torch.ones(2, 32))[0])
    tiny_v1.module.eval()
    assert torch.equal(layers[0](torch.ones(32)), torch.ones(32))


def test_no_device_here_is_launch_bound() -> None:
    assert device_module.is_launch_bound(torch.device("mps"))
    assert not device_module.is_launch_bound(torch.device("cpu"))
    assert not device_module.is_launch_bound(torch.device("cuda"))

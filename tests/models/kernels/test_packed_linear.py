"""Prepacked weights give the same products; other modules are left as they are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.kernels.packed_linear import packed, packed_together
from moonshine_tune.models.lora import (
    adapter_disabled,
    adapter_parameters,
    adapter_scale,
    inject_lora,
)

pytestmark = pytest.mark.usefixtures("one_thread")

Build = Callable[..., SpeechModel]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 4, 29])
def test_a_plain_layer(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(48, 80, bias=bias)
    call = packed(layer)
    assert call is not layer
    inputs = torch.randn(rows, 1, 48)
    with torch.inference_mode():
        assert torch.allclose(call(inputs), layer(inputs), atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_an_adapter_is_merged_into_the_weight(build_model: Build, family: str, dora: bool) -> None:
    model = build_model(family)
    inject_lora(model, rank=2, sites="all", dora=dora, seed=1)
    with torch.no_grad():
        for name, value in adapter_parameters(model.module):
            if ".lora_B" in name:
                value.normal_(std=0.1)
    model.module.eval()
    layer: Any = model.decoder.layers[0].self_attn.q_proj
    inputs = torch.randn(5, 1, layer.in_features)

    def same() -> torch.Tensor:
        with torch.inference_mode():
            product: torch.Tensor = packed(layer)(inputs)
            assert torch.allclose(product, layer(inputs), atol=1e-5)
        return product

    full = same()
    with adapter_disabled(model):
        base = same()
    with adapter_scale(model, 0.5):
        half = same()
    assert not torch.allclose(full, base, atol=1e-3)
    assert not torch.allclose(half, base, atol=1e-3)
    assert not torch.allclose(half, full, atol=1e-3)


def test_modules_that_cannot_be_packed_are_returned() -> None:
    halves = nn.Linear(8, 8).to(torch.bfloat16)
    assert packed(halves) is halves
    block = nn.Sequential(nn.Linear(8, 8))
    assert packed(block) is block
    calls: list[int] = []
    hooked = nn.Linear(8, 8)
    hook = hooked.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        packed(hooked)(torch.zeros(1, 8))
    assert calls == [1], "hooks run"
    hook.remove()
    assert packed(hooked) is not hooked


@pytest.mark.parametrize("kind", ["plain", "bias", "hook"])
def test_layers_with_the_same_input(kind: str) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(48, width, bias=kind == "bias") for width in (80, 16, 32)]
    calls: list[object] = []
    if kind == "hook":
        layers[1].register_forward_hook(lambda *args: calls.append(args))
    call = packed_together(layers)
    rows = torch.randn(6, 1, 48)
    with torch.inference_mode():
        for result, layer in zip(call(rows), layers, strict=True):
            torch.testing.assert_close(result, layer(rows), rtol=1e-5, atol=1e-5)
    assert len(calls) == (2 if kind == "hook" else 0)

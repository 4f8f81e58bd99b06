"""A frozen layer and its adapter as one function: PEFT's own numbers, gradients and dropout."""

from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn

import moonshine_tune.models.kernels.lora_linear as lora_linear
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.kernels.lora_linear import LoraLinear
from moonshine_tune.models.lora import adapter_disabled, inject_lora

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The rows that went through the one function."""
    seen: list[torch.Size] = []
    real = lora_linear._LoraProduct.apply

    def listening(rows: Tensor, *rest: Any) -> Any:
        seen.append(rows.shape)
        return real(rows, *rest)

    monkeypatch.setattr(lora_linear._LoraProduct, "apply", listening)
    return seen


def _layer(model: SpeechModel, **options: Any) -> Any:
    """One layer with an adapter that does something."""
    inject_lora(model, rank=4, sites="decoder-self-attention", seed=1, **options)
    layer = model.decoder.layers[0].self_attn.q_proj
    nn.init.normal_(layer.lora_B.default.weight, std=0.3)
    layer.train()
    return layer


def _rows(layer: Any, *, trained: bool = True) -> Tensor:
    torch.manual_seed(5)
    rows = torch.randn(2, 7, layer.base_layer.weight.shape[1]).to(layer.base_layer.weight.dtype)
    return rows.requires_grad_(trained)


def _computed(call: Any, layer: Any, rows: Tensor) -> list[Tensor | None]:
    """Output and gradients, with the draws of dropout that the seed gives."""
    layer.zero_grad()
    rows.grad = None
    torch.manual_seed(9)
    output = call(rows)
    output.backward(torch.ones_like(output).cumsum(-1) / output.shape[-1])
    matrices = (layer.lora_A.default.weight, layer.lora_B.default.weight)
    gradients = [value.grad if value.grad is None else value.grad.clone() for value in matrices]
    return [output.detach(), rows.grad, *gradients]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_and_gradients_are_pefts(
    tiny_model: SpeechModel,
    products: list[torch.Size],
    dropout: float,
    trained: bool,
    dtype: torch.dtype,
) -> None:
    layer = _layer(tiny_model, dropout=dropout)
    layer.base_layer.to(dtype)
    rows = _rows(layer, trained=trained)
    found = _computed(layer, layer, rows)
    assert products == [rows.shape]
    wanted = _computed(lambda given: PeftLinear.forward(layer, given), layer, rows)
    near = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.03, "atol": 0.03}
    assert (found[1] is None) == (not trained)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, **near)


@pytest.mark.parametrize("kind", ["disabled", "dora", "hook", "merged", "autocast", "trained base"])
def test_pefts_own_where_it_must_be(
    tiny_model: SpeechModel, products: list[torch.Size], kind: str
) -> None:
    layer = _layer(tiny_model, dora=kind == "dora")
    rows = _rows(layer).detach()
    wanted = PeftLinear.forward(layer, rows).detach()
    heard: list[object] = []
    if kind == "disabled":
        with adapter_disabled(tiny_model):
            assert torch.equal(layer(rows), layer.base_layer(rows))
    elif kind == "hook":
        layer.lora_A.default.register_forward_hook(lambda *told: heard.append(told))
        torch.testing.assert_close(layer(rows), wanted)
        assert heard
    elif kind == "merged":
        layer.merge()
        torch.testing.assert_close(layer(rows), wanted, rtol=1e-4, atol=1e-5)
    elif kind == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(layer(rows).float(), wanted, rtol=0.05, atol=0.05)
    else:
        layer.base_layer.weight.requires_grad_(kind == "trained base")
        torch.testing.assert_close(layer(rows), wanted)
    assert products == []


def test_injected_and_loaded_layers_are_such(tiny_model: SpeechModel) -> None:
    inject_lora(tiny_model, sites="all")
    layers = [one for one in tiny_model.module.modules() if isinstance(one, PeftLinear)]
    assert layers
    assert all(isinstance(layer, LoraLinear) for layer in layers)


def test_16_bit_rows_are_kept_as_they_are(tiny_model: SpeechModel) -> None:
    """Nothing is kept in 32 bits for the backward pass beside what has `rank` numbers a row."""
    layer = _layer(tiny_model)
    layer.base_layer.to(torch.bfloat16)
    rows, kept = _rows(layer), []

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        layer(rows)
    wide = [value for value in kept if value.numel() == rows.numel()]
    assert wide
    assert all(value.dtype == torch.bfloat16 for value in wide)

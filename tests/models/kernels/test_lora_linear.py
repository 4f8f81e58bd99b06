"""A frozen layer with its adapter as one function gives PEFT's results, gradients and dropout."""

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
    """Shapes of the rows that the function computed."""
    recorded: list[torch.Size] = []
    real = lora_linear._LoraProduct.apply

    def recording(rows: Tensor, *rest: Any) -> Any:
        recorded.append(rows.shape)
        return real(rows, *rest)

    monkeypatch.setattr(lora_linear._LoraProduct, "apply", recording)
    return recorded


def _layer(model: SpeechModel, **options: Any) -> Any:
    """A layer with an adapter that has an effect."""
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
    """Output and gradients, with seeded dropout."""
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
def test_results_and_gradients_equal_pefts(
    tiny_model: SpeechModel,
    products: list[torch.Size],
    dropout: float,
    trained: bool,
    dtype: torch.dtype,
) -> None:
    layer = _layer(tiny_model, dropout=dropout)
    layer.base_layer.to(dtype)
    rows = _rows(layer, trained=trained)
    result = _computed(layer, layer, rows)
    assert products == [rows.shape]
    expected = _computed(lambda inputs: PeftLinear.forward(layer, inputs), layer, rows)
    near = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.03, "atol": 0.03}
    assert (result[1] is None) == (not trained)
    for mine, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(mine, theirs, **near)


@pytest.mark.parametrize("kind", ["disabled", "dora", "hook", "merged", "autocast", "trained base"])
def test_peft_computes_every_other_case(
    tiny_model: SpeechModel, products: list[torch.Size], kind: str
) -> None:
    layer = _layer(tiny_model, dora=kind == "dora")
    rows = _rows(layer).detach()
    expected = PeftLinear.forward(layer, rows).detach()
    calls: list[object] = []
    if kind == "disabled":
        with adapter_disabled(tiny_model):
            assert torch.equal(layer(rows), layer.base_layer(rows))
    elif kind == "hook":
        layer.lora_A.default.register_forward_hook(lambda *args: calls.append(args))
        torch.testing.assert_close(layer(rows), expected)
        assert calls
    elif kind == "merged":
        layer.merge()
        torch.testing.assert_close(layer(rows), expected, rtol=1e-4, atol=1e-5)
    elif kind == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(layer(rows).float(), expected, rtol=0.05, atol=0.05)
    else:
        layer.base_layer.weight.requires_grad_(kind == "trained base")
        torch.testing.assert_close(layer(rows), expected)
    assert products == []


def test_all_adapted_layers_are_patched(tiny_model: SpeechModel) -> None:
    inject_lora(tiny_model, sites="all")
    layers = [module for module in tiny_model.module.modules() if isinstance(module, PeftLinear)]
    assert layers
    assert all(isinstance(layer, LoraLinear) for layer in layers)


def test_16_bit_rows_are_kept_in_16_bits(tiny_model: SpeechModel) -> None:
    """For the backward pass, only tensors of `rank` numbers per row are kept in 32 bits."""
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

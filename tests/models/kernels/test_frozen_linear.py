"""Frozen layers through oneDNN give torch's results, and use torch where oneDNN cannot."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import moonshine_tune.models.kernels.frozen_linear as frozen_linear
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.kernels.frozen_linear import (
    FrozenLinear,
    frozen_product,
    use_frozen_linear,
)
from moonshine_tune.models.lora import inject_lora
from moonshine_tune.models.losses import FrozenHead, head_cross_entropy_sum, target_batch

pytestmark = pytest.mark.usefixtures("one_thread")


def _layer(*, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=bias).requires_grad_(False)
    use_frozen_linear(layer)
    return layer


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the rows that oneDNN computed."""
    recorded: list[torch.Size] = []
    real = frozen_linear.onednn_product

    def recording(
        rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        recorded.append(rows.shape)
        return real(rows, weight, bias)

    monkeypatch.setattr(frozen_linear, "onednn_product", recording)
    return recorded


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (3, 24), (2, 5, 24), (0, 24)])
def test_products_and_gradients_equal_torchs(
    calls: list[torch.Size], shape: tuple[int, ...], bias: bool
) -> None:
    layer = _layer(bias=bias)
    mine = torch.randn(shape).requires_grad_(True)
    theirs = mine.detach().clone().requires_grad_(True)
    result, expected = layer(mine), F.linear(theirs, layer.weight, layer.bias)
    upstream = torch.randn(result.shape)
    result.backward(upstream)
    expected.backward(upstream)
    assert len(calls) == 2
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert mine.grad is not None
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-5)


def test_rows_that_are_not_contiguous(calls: list[torch.Size]) -> None:
    layer = _layer()
    transposed = torch.randn(4, 24, 7).transpose(1, 2)
    part = torch.randn(4, 9, 48)[:, 1:8, ::2]
    for rows in (transposed, part):
        torch.testing.assert_close(
            layer(rows), F.linear(rows, layer.weight, layer.bias), rtol=1e-5, atol=1e-5
        )
    assert len(calls) == 2


def test_torch_computes_every_other_case(calls: list[torch.Size]) -> None:
    rows = torch.randn(3, 24)
    trained = _layer().requires_grad_(True)
    trained(rows).sum().backward()
    assert trained.weight.grad is not None, "a weight that trains gets its gradient"
    for dtype in (torch.float64, torch.bfloat16):
        assert _layer().to(dtype)(rows.to(dtype)).dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert _layer()(rows).dtype == torch.bfloat16
    frozen_product(rows.double(), torch.randn(40, 24).double())
    assert not calls


def test_no_transposed_weight_is_given_to_torch(
    tiny_model: SpeechModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On MPS, torch 2.8 computes wrong with one: forward, backward, and the head's gradient."""
    given: list[bool] = []
    real = F.linear

    def recording(
        rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        given.append(weight.is_contiguous())
        return real(rows, weight, bias)

    monkeypatch.setattr(F, "linear", recording)
    monkeypatch.setattr(frozen_linear, "is_for_onednn", lambda weight: False)
    inject_lora(tiny_model, rank=2, sites="all")
    audio = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(1))
    targets = target_batch([[270, 280, 290]], "cpu")
    hidden = tiny_model.decoder_hidden(tiny_model.encode(audio, [16_000]), targets.input_ids)
    head = FrozenHead(tiny_model.head_weight)
    head_cross_entropy_sum(hidden, head, targets.targets).backward()
    assert len(given) > 20 and all(given)


def test_all_linear_layers_of_a_model_are_patched_with_or_without_an_adapter(
    tiny_model: SpeechModel,
) -> None:
    kinds = {type(layer) for layer in tiny_model.module.modules() if isinstance(layer, nn.Linear)}
    assert kinds == {FrozenLinear}
    inject_lora(tiny_model, rank=2, sites="decoder")
    attention = tiny_model.decoder.layers[0].self_attn
    assert type(attention.q_proj.base_layer) is FrozenLinear
    assert type(attention.q_proj.lora_A["default"]) is nn.Linear, "trained layers are torch's"

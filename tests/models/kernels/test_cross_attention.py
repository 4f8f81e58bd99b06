"""Cross-attention without keys and values gives transformers' results and gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import moonshine_tune.models.kernels.cross_attention as cross_attention
from moonshine_tune.models.base import EncoderStates, SpeechModel
from moonshine_tune.models.lora import (
    adapter_disabled,
    adapter_parameters,
    adapter_scale,
    inject_lora,
)
from moonshine_tune.models.losses import FrozenHead, head_cross_entropy_sum, target_batch

pytestmark = pytest.mark.usefixtures("one_thread")

_LENGTHS = (40, 33, 12)


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the queries that attended to frames directly."""
    recorded: list[torch.Size] = []
    real = cross_attention._parts

    def recording(layer: object, query: torch.Tensor, frames: torch.Tensor) -> list[Any]:
        recorded.append(query.shape)
        return list(real(layer, query, frames))

    monkeypatch.setattr(cross_attention, "_parts", recording)
    return recorded


def _states(model: SpeechModel, *, padded: bool = True) -> EncoderStates:
    width = int(model.encoder.layers[0].self_attn.q_proj.weight.shape[1])
    values = torch.randn(3, 40, width, generator=torch.Generator().manual_seed(2))
    return EncoderStates(values.to(model.dtype), _LENGTHS if padded else (40, 40, 40))


def _with_adapter(model: SpeechModel, sites: str, *, dora: bool = False) -> None:
    """An adapter with an effect: neither B nor a gradient is zero."""
    inject_lora(model, rank=2, sites=sites, dora=dora, seed=1)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, value in adapter_parameters(model.module):
            if ".lora_B" in name:
                value.normal_(std=0.1, generator=generator)


def _loss_and_gradients(
    model: SpeechModel, states: EncoderStates
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.module.zero_grad()
    targets = target_batch([[5, 6], [7], [8, 9]], "cpu")
    hidden = model.decoder_hidden(states, targets.input_ids)
    loss = head_cross_entropy_sum(hidden, FrozenHead(model.head_weight), targets.targets)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), {
        name: value.grad.clone()
        for name, value in adapter_parameters(model.module)
        if value.grad is not None
    }


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("sites", ["decoder-self-attention", "decoder", "qv"])
def test_loss_and_gradients(
    tiny_model: SpeechModel,
    direct: list[torch.Size],
    padded: bool,
    recompute: bool,
    kernel: str,
    sites: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny_model.module.set_attn_implementation(kernel)
    _with_adapter(tiny_model, sites)
    if recompute:
        tiny_model.enable_gradient_checkpointing()
    tiny_model.module.train()
    states = _states(tiny_model, padded=padded)
    loss, result = _loss_and_gradients(tiny_model, states)
    assert direct
    direct.clear()
    monkeypatch.setattr(cross_attention, "_MOST_SHARE", 0.0)
    expected_loss, expected = _loss_and_gradients(tiny_model, states)
    assert not direct
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    assert expected and result.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(result[name], gradient, rtol=1e-3, atol=1e-6)


def test_weights_in_16_bits(tiny_model: SpeechModel, direct: list[torch.Size]) -> None:
    exact = tiny_model.decoder_hidden(_states(tiny_model), torch.tensor([[1, 5, 6]] * 3))
    tiny_model.module.to(torch.bfloat16)
    rounded = tiny_model.decoder_hidden(_states(tiny_model), torch.tensor([[1, 5, 6]] * 3))
    assert direct and rounded.dtype == torch.bfloat16
    assert float((rounded.float() - exact).norm() / exact.norm()) < 0.03


def test_autocast_keeps_its_number_format(
    tiny_model: SpeechModel, direct: list[torch.Size]
) -> None:
    exact = tiny_model.decoder_hidden(_states(tiny_model), torch.tensor([[1, 5, 6]] * 3))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = tiny_model.decoder_hidden(_states(tiny_model), torch.tensor([[1, 5, 6]] * 3))
    assert direct
    assert float((mixed.float() - exact).norm() / exact.norm()) < 0.03


def _with_encoder(model: SpeechModel) -> EncoderStates:
    states = _states(model)
    return EncoderStates(states.values.requires_grad_(True), states.lengths)


@pytest.mark.parametrize(
    ("dora", "make", "tokens"),
    [
        pytest.param(True, _states, 3, id="DoRA"),
        pytest.param(False, _with_encoder, 3, id="frames with a gradient"),
        pytest.param(False, _states, 39, id="as many tokens as frames"),
    ],
)
def test_keys_and_values_are_computed_where_they_are_needed(
    tiny_model: SpeechModel,
    direct: list[torch.Size],
    dora: bool,
    make: Callable[[SpeechModel], EncoderStates],
    tokens: int,
) -> None:
    _with_adapter(tiny_model, "decoder", dora=dora)
    tiny_model.decoder_hidden(make(tiny_model), torch.ones(3, tokens, dtype=torch.long))
    assert not direct


def test_an_adapter_switched_off_or_scaled(
    tiny_model: SpeechModel, direct: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = torch.tensor([[1, 5, 6]] * 3)
    base = tiny_model.decoder_hidden(_states(tiny_model), tokens)
    _with_adapter(tiny_model, "cross-attention")
    full = tiny_model.decoder_hidden(_states(tiny_model), tokens)
    with adapter_disabled(tiny_model):
        off = tiny_model.decoder_hidden(_states(tiny_model), tokens)
    with adapter_scale(tiny_model, 0.5):
        half = tiny_model.decoder_hidden(_states(tiny_model), tokens)
        monkeypatch.setattr(cross_attention, "_MOST_SHARE", 0.0)
        by_keys = tiny_model.decoder_hidden(_states(tiny_model), tokens)
    assert direct
    assert torch.equal(off, base), "the teacher is exactly the base model"
    assert not torch.allclose(full, base, atol=1e-3)
    torch.testing.assert_close(half, by_keys, rtol=1e-4, atol=1e-5)


def test_generate_uses_its_cache(tiny_model: SpeechModel, direct: list[torch.Size]) -> None:
    """transformers' decoding stores keys and values, so it needs them."""
    audio = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(3))
    tiny_model.module.generate(audio, max_new_tokens=3)
    assert not direct

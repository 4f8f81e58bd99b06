"""Positions as complex products: the numbers and gradients of transformers' own self-attention."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.moonshine.modeling_moonshine import apply_rotary_pos_emb

import moonshine_tune.models.kernels.rotary as rotary
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.kernels.rotary import RotaryTables
from moonshine_tune.models.lora import adapter_parameters, inject_lora
from moonshine_tune.models.losses import FrozenHead, head_cross_entropy_sum, target_batch

pytestmark = pytest.mark.usefixtures("one_thread")

_LENGTHS = [16_000, 11_200]


def _tables(places: int, turned: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines as transformers' embedding makes them, [1, places, turned]."""
    speeds = 1.0 / 10_000 ** (torch.arange(0, turned, 2) / turned)
    angles = torch.arange(places)[:, None] * speeds
    both = torch.cat((angles, angles), dim=-1)[None]
    return both.cos().to(dtype), both.sin().to(dtype)


@pytest.mark.parametrize("complex_numbers", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("width", [36, 32])
def test_heads_are_turned_as_transformers_does(
    monkeypatch: pytest.MonkeyPatch, complex_numbers: bool, dtype: torch.dtype, width: int
) -> None:
    monkeypatch.setattr(rotary, "supports_complex", lambda device: complex_numbers)
    cos, sin = _tables(9, 32, dtype)
    torch.manual_seed(1)
    query, key = (torch.randn(2, 9, 3, width).to(dtype) for _ in range(2))
    wanted = apply_rotary_pos_emb(query.transpose(1, 2), key.transpose(1, 2), cos, sin)
    turns = RotaryTables.of(cos, sin, width)
    assert (turns.pairs is not None) == complex_numbers
    near = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    for mine, theirs in zip((query, key), wanted, strict=True):
        found = turns.turn(mine)
        assert found.dtype == dtype
        torch.testing.assert_close(found.transpose(1, 2), theirs, **near)
        torch.testing.assert_close(turns.at(4).turn(mine[:, 4:5]), found[:, 4:5])


def _audio() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    audio = 0.1 * torch.randn(len(_LENGTHS), max(_LENGTHS), generator=generator)
    audio[1, _LENGTHS[1] :] = 0.0
    return audio


def _loss_and_gradients(model: SpeechModel) -> tuple[Tensor, dict[str, Tensor]]:
    model.module.zero_grad()
    states = model.encode(_audio(), _LENGTHS)
    targets = target_batch([[5, 6], [7]], "cpu")
    hidden = model.decoder_hidden(states, targets.input_ids)
    loss = head_cross_entropy_sum(hidden, FrozenHead(model.head_weight), targets.targets)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: value.grad.clone() for name, value in adapter_parameters(model.module)}
    return loss.detach(), gradients


@pytest.mark.parametrize("complex_numbers", [True, False])
@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients(
    tiny_model: SpeechModel,
    monkeypatch: pytest.MonkeyPatch,
    complex_numbers: bool,
    recompute: bool,
) -> None:
    monkeypatch.setattr(rotary, "supports_complex", lambda device: complex_numbers)
    turned: list[torch.Size] = []
    real = RotaryTables.turn

    def listening(turns: RotaryTables, heads: Tensor) -> Tensor:
        turned.append(heads.shape)
        return real(turns, heads)

    monkeypatch.setattr(RotaryTables, "turn", listening)
    inject_lora(tiny_model, rank=2, sites="all", seed=1)
    torch.manual_seed(4)
    with torch.no_grad():
        for name, value in adapter_parameters(tiny_model.module):
            if ".lora_B" in name:
                value.normal_(std=0.1)
    if recompute:
        tiny_model.module.train()
        tiny_model.enable_gradient_checkpointing()
    loss, gradients = _loss_and_gradients(tiny_model)
    assert turned
    monkeypatch.setattr(rotary, "_is_for", lambda attention, positions: False)
    turned.clear()
    wanted, expected = _loss_and_gradients(tiny_model)
    assert turned == []
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
    for name, value in gradients.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_a_cache_of_transformers_is_filled_as_ever(tiny_model: SpeechModel) -> None:
    """`generate` keeps keys that its own layer has turned: it goes on with that layer."""
    states: Any = tiny_model.encode(_audio()[:1], _LENGTHS[:1]).values
    tokens = torch.tensor([[1, 5, 6, 7]])
    with torch.inference_mode():
        whole = tiny_model.decoder(input_ids=tokens, encoder_hidden_states=states.clone())
        cache = tiny_model.decoder(
            input_ids=tokens[:, :3], encoder_hidden_states=states.clone(), use_cache=True
        ).past_key_values
        last = tiny_model.decoder(
            input_ids=tokens[:, 3:],
            encoder_hidden_states=states.clone(),
            past_key_values=cache,
            use_cache=True,
        )
    torch.testing.assert_close(
        last.last_hidden_state[:, 0], whole.last_hidden_state[:, 3], rtol=1e-4, atol=1e-4
    )

"""An adapter keeps its effect on its domain's inputs and loses that on general ones."""

import copy

import numpy as np
import pytest
import torch

from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.input_covariance import InputCovariance, filtered
from moonshine_tune.models.lora import adapter_state, inject_lora, load_adapter_state

_WIDTH = 6
_NAME = "layer.lora_A.default.weight"


def _moments(rows: torch.Tensor) -> InputCovariance:
    covariance = InputCovariance()
    covariance.add(_NAME, rows)
    return covariance


def _filtered(
    down: torch.Tensor, domain: torch.Tensor, general: torch.Tensor, weight: float
) -> torch.Tensor:
    state = filtered({_NAME: down}, _moments(domain), _moments(general), weight)
    return state[_NAME]


def test_directions_of_the_domain_stay_and_those_of_general_speech_go() -> None:
    down = torch.randn(2, _WIDTH, generator=torch.Generator().manual_seed(0))
    axes = torch.eye(_WIDTH)
    kept = _filtered(down, axes[:4], axes[2:], 1.0)
    assert torch.allclose(kept[:, :2], down[:, :2], rtol=1e-3), "only the domain's"
    assert torch.allclose(kept[:, 2:4], down[:, 2:4] / 2, rtol=1e-3), "alike in both"
    assert kept[:, 4:].abs().max() < 1e-3, "only general speech's"


def test_no_weight_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(40, _WIDTH, generator=generator)
    down = torch.randn(2, _WIDTH, generator=generator)
    assert torch.allclose(_filtered(down, rows, rows, 0.0), down, rtol=1e-2)


def test_it_is_the_least_squares_solution() -> None:
    """Of the weighted sum of squares, by a solver that knows nothing of moments."""
    generator = torch.Generator().manual_seed(2)
    domain = torch.randn(50, _WIDTH, generator=generator)
    general = 3 * torch.randn(80, _WIDTH, generator=generator)[:, torch.randperm(_WIDTH)]
    down = torch.randn(2, _WIDTH, generator=generator)
    weight = 0.7
    scales = ((1 / len(domain)) ** 0.5, (weight / len(general)) ** 0.5)
    rows = torch.cat([domain * scales[0], general * scales[1]])
    wanted = torch.cat([domain @ down.T * scales[0], torch.zeros(len(general), 2)])
    solution = torch.linalg.lstsq(rows, wanted).solution.T
    assert torch.allclose(_filtered(down, domain, general, weight), solution, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("sites", ["all", "decoder"])
def test_every_adapted_layer_is_counted_with_its_own_inputs(
    tiny_v1: SpeechModel, sites: str
) -> None:
    model = copy.deepcopy(tiny_v1)
    inject_lora(model, seed=0, rank=2, sites=sites)
    state = {name: torch.randn_like(value) for name, value in adapter_state(model).items()}
    load_adapter_state(model, state)
    model.module.eval()
    inputs: dict[str, torch.Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, values, name=name: inputs.setdefault(name, values[0].detach())
        )
        for name, layer in model.module.named_modules()
        if getattr(layer, "lora_A", None)
    ]
    covariance = InputCovariance()
    audio = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), covariance.collect(model):
        states = model.encode(audio, [16_000])
        model.decoder_hidden(states, torch.tensor([[1, 5, 7, 9]]))
    for hook in hooks:
        hook.remove()
    assert set(covariance.names) == {name for name in state if ".lora_A." in name}
    for name, values in inputs.items():
        rows = values.reshape(-1, values.shape[-1]).double().numpy()
        mean = covariance.mean(f"{name}.lora_A.default.weight")
        assert np.allclose(mean, rows.T @ rows / len(rows), rtol=1e-3, atol=1e-4), name
    before = {name: covariance.mean(name) for name in covariance.names}
    with torch.no_grad():
        model.encode(2 * audio, [16_000])
    after = {name: covariance.mean(name) for name in covariance.names}
    assert all(np.array_equal(before[name], after[name]) for name in before), "outside of the block"


def test_sums_stay_in_32_bits_where_the_model_computes_in_16() -> None:
    covariance = InputCovariance()
    rows = 1 + 1e-3 * torch.randn(64, _WIDTH, generator=torch.Generator().manual_seed(3))
    with torch.autocast("cpu", torch.bfloat16):
        covariance.add(_NAME, rows)
    expected = (rows.double().T @ rows.double() / len(rows)).numpy()
    assert np.allclose(covariance.mean(_NAME), expected, rtol=1e-6)


def test_padding_is_no_input() -> None:
    rows = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    padded = InputCovariance()
    padded.add(_NAME, rows, (5, 3))
    exact = _moments(torch.cat([rows[0], rows[1, :3]]))
    np.testing.assert_allclose(padded.mean(_NAME), exact.mean(_NAME), rtol=1e-5)

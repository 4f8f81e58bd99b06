"""Full fine-tuning: which matrices train, what is switched, scaled, saved, exported and refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.errors import RequestError
from moonshine_tune.export.graft import graft
from moonshine_tune.export.graphs import build_graphs
from moonshine_tune.export.parity.graphs import ParityClip, check_graphs
from moonshine_tune.export.tensors import model_tensors
from moonshine_tune.inference.batching import pad_clips
from moonshine_tune.models.adapter_set import AdapterSet
from moonshine_tune.models.adapter_sum import WeightedAdapter, sum_of_adapters
from moonshine_tune.models.base import EncoderStates, SpeechModel
from moonshine_tune.models.full import full_base
from moonshine_tune.models.input_covariance import InputCovariance, filtered
from moonshine_tune.models.lora import (
    adapter_disabled,
    adapter_parameters,
    adapter_scale,
    adapter_state,
    inject_lora,
    load_adapter,
    load_adapter_state,
    load_matrices,
    save_adapter,
    tune_fully,
)
from moonshine_tune.models.merge import LazyMerged
from moonshine_tune.runtime.layout import read_layout

pytestmark = pytest.mark.usefixtures("one_thread")

_BASE = {"name": "small", "family": "any", "sha256": "a" * 64}
_IDS = torch.tensor([[1, 270, 280, 290], [1, 265, 266, 267]])
Build = Callable[..., SpeechModel]
Audio = tuple[Tensor, list[int]]


@pytest.fixture(scope="module")
def audio(make_clip: Callable[..., Samples]) -> Audio:
    return pad_clips([make_clip(1.3, 1), make_clip(0.8, 2)], "cpu")  # type: ignore[arg-type]


@torch.no_grad()
def _logits(model: SpeechModel, audio: Audio) -> Tensor:
    return model.decoder_logits(model.encode(*audio), _IDS)


@torch.no_grad()
def _tuned(model: SpeechModel, sites: str = "all", spread: float = 0.1) -> SpeechModel:
    """The model with matrices as after training."""
    tune_fully(model, sites=sites)
    rng = torch.Generator().manual_seed(5)
    for _, value in adapter_parameters(model.module):
        value += spread * value.std() * torch.randn(value.shape, generator=rng)
    return model


def _saved(model: SpeechModel, folder: Path, scale: float = 1.0) -> Path:
    folder.mkdir()
    save_adapter(folder, model, adapter_state(model), scale=scale, base=_BASE)
    return folder


@pytest.mark.parametrize("sites", ["all", "decoder"])
def test_gradients_reach_every_matrix_that_trains_and_nothing_else(
    tiny_model: SpeechModel, audio: Audio, sites: str
) -> None:
    before, frozen = _logits(tiny_model, audio), dict(tiny_model.module.named_parameters())
    summary = tune_fully(tiny_model, sites=sites)
    assert torch.equal(_logits(tiny_model, audio), before)
    assert summary.modules == (32 if sites == "all" else 20)
    assert summary.touches_encoder == (sites == "all")
    # Every matrix of the layers; with the encoder's, more than nine tenths of their numbers.
    layers = {n: v.numel() for n, v in frozen.items() if ".layers." in n and "encoder" in n}
    layers |= {n: v.numel() for n, v in frozen.items() if ".decoder.layers." in n}
    if sites == "all":
        assert summary.parameters > 0.9 * sum(layers.values())
    tiny_model.module.train()
    tiny_model.decoder_logits(tiny_model.encode(*audio), _IDS).square().sum().backward()
    trained = dict(adapter_parameters(tiny_model.module))
    assert all(bool(value.grad.any()) for value in trained.values() if value.grad is not None)
    with_gradient = {
        name for name, value in tiny_model.module.named_parameters() if value.grad is not None
    }
    assert with_gradient == set(trained) and len(trained) == summary.modules


def test_it_is_the_base_when_switched_off_and_between_both_at_a_strength(
    build_model: Build, audio: Audio
) -> None:
    base, model = build_model("v1"), _tuned(build_model("v1"))
    tuned = _logits(model, audio)
    assert not torch.allclose(tuned, _logits(base, audio), atol=1e-3)
    with adapter_disabled(model):
        assert torch.equal(_logits(model, audio), _logits(base, audio))
    with adapter_scale(model, 0.6):
        merged, weaker = LazyMerged(model), _logits(model, audio)
        name = next(iter(merged))
        full = dict(adapter_parameters(model.module))[name.replace(".weight", ".full_weight")]
        between = merged.base(name) + 0.6 * (full - merged.base(name))
        torch.testing.assert_close(merged[name], between.detach())
    assert torch.equal(_logits(model, audio), tuned)
    assert 0.0 < float((weaker - tuned).norm()) < float((_logits(base, audio) - tuned).norm())


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_what_is_saved_is_what_was_computed(
    tiny_model: SpeechModel, build_model: Build, audio: Audio, tmp_path: Path, scale: float
) -> None:
    model = _tuned(tiny_model)
    folder = _saved(model, tmp_path / "adapter", scale)
    again = build_model(tiny_model.family)
    assert load_adapter(again, folder) == folder
    assert not any(value.requires_grad for value in again.module.parameters())
    with adapter_scale(model, scale):
        expected = _logits(model, audio)
    torch.testing.assert_close(_logits(again, audio), expected, rtol=1e-5, atol=1e-5)
    if scale == 1.0:
        # Training goes on from it.
        load_matrices(_tuned(build_model(tiny_model.family), spread=0.3), folder)
        load_adapter_state(again, adapter_state(model))


def test_foreign_matrices_are_refused(build_model: Build, tmp_path: Path) -> None:
    folder = _saved(_tuned(build_model("v1"), "decoder"), tmp_path / "adapter")
    with pytest.raises(RequestError, match="another set of layers"):
        load_matrices(_tuned(build_model("v1"), "all"), folder)
    other = _saved(_tuned(build_model("v1"), "encoder"), tmp_path / "other")
    with pytest.raises(RequestError, match="do not fit this model: "):
        load_adapter(build_model("streaming"), other)
    with pytest.raises(RequestError, match="full fine-tuning") as refused:
        sum_of_adapters([WeightedAdapter(folder, 1.0)])
    assert "moonshine-tune merge" in str(refused.value.hint)


def test_beside_frozen_weights_of_16_bits_what_trains_has_32(
    build_model: Build, audio: Audio
) -> None:
    model = build_model("v1")
    model.module.to(torch.bfloat16)
    half = (audio[0].to(torch.bfloat16), audio[1])
    before = _logits(model, half)
    tune_fully(model, sites="all")
    assert torch.equal(_logits(model, half), before)
    model.decoder_logits(model.encode(*half), _IDS).float().square().sum().backward()
    for _, value in adapter_parameters(model.module):
        assert value.dtype == torch.float32 and value.grad is not None
        assert value.grad.dtype == torch.float32 and bool(value.grad.any())


def test_cross_attention_on_frames_gives_the_same_gradients(
    build_model: Build, audio: Audio
) -> None:
    """Frozen frames take the short way, frames with a gradient transformers' own."""
    model = _tuned(build_model("v1"), "decoder")
    with torch.no_grad():
        states = model.encode(*audio)
    gradients = []
    for trains in (False, True):
        values = states.values.clone().requires_grad_(trains)
        model.decoder_hidden(EncoderStates(values, states.lengths), _IDS).square().sum().backward()
        gradients.append({n: v.grad for n, v in adapter_parameters(model.module)})
        model.module.zero_grad(set_to_none=True)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-3)


def test_it_is_switched_with_adapters_of_the_same_base(
    build_model: Build, audio: Audio, tmp_path: Path
) -> None:
    full = _saved(_tuned(build_model("v1")), tmp_path / "full")
    small = build_model("v1")
    inject_lora(small, sites="all")
    lora = _saved(small, tmp_path / "lora")
    model = build_model("v1")
    expected = _logits(model, audio)
    adapters = AdapterSet(model)
    adapters.add("full", full)
    tuned = _logits(model, audio)
    adapters.add("lora", lora)
    assert torch.equal(_logits(model, audio), expected)
    adapters.use("full")
    assert torch.equal(_logits(model, audio), tuned) and not torch.equal(tuned, expected)
    adapters.use(None)
    assert torch.equal(_logits(model, audio), expected)


def test_the_filter_takes_out_a_part_of_the_difference(build_model: Build, audio: Audio) -> None:
    model = _tuned(build_model("v1"))
    domain, general = InputCovariance(), InputCovariance()
    for inputs in (domain, general):
        with inputs.collect(model):
            _logits(model, audio)
    assert set(domain.names) == {name for name, _ in adapter_parameters(model.module)}
    base, state = full_base(model.module), adapter_state(model)
    # Both have the same inputs: what is left is one part of four.
    result = filtered(state, domain, general, 3.0, base)
    name = "model.decoder.layers.0.mlp.fc2.full_weight"
    shares = (result[name] - base[name]).norm() / (state[name] - base[name]).norm()
    assert 0.0 < float(shares) < 0.3


@pytest.mark.parametrize("family", ["v1", "streaming"])
def test_exported_graphs_compute_what_torch_computes(
    build_model: Build, make_clip: Callable[..., Samples], tmp_path: Path, family: str
) -> None:
    """Grafted into the base's files, in floating point: nothing but the change is in between."""
    base = build_model(family)
    (tmp_path / "base").mkdir()
    (tmp_path / "tuned").mkdir()
    build_graphs(base, model_tensors(base), tmp_path / "base", scheme="none")
    model = _tuned(build_model(family), spread=0.05)
    merged = {name: value.numpy() for name, value in LazyMerged(model).items()}
    before = {name: LazyMerged(model).base(name).numpy() for name in merged}
    report = graft(read_layout(tmp_path / "base"), before, merged, tmp_path / "tuned")
    assert report.changed == report.matrices == len(merged) == 32
    tensors = model_tensors(model)
    assert all(np.array_equal(tensors[name], merged[name]) for name in merged)
    clips = [ParityClip("one", make_clip(1.6, 3)[:25_600], "it was the best of times")]
    result = check_graphs(read_layout(tmp_path / "tuned"), model, tensors, clips)
    assert result.passed, result.first_difference
    assert max(item.relative for item in result.graphs) < 1e-4

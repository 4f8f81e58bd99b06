"""Inputs of a graft's matrices get smaller ranges, and nothing else changes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from moonshine_tune.audio.io import load_audio
from moonshine_tune.export.calibration import input_moments
from moonshine_tune.export.graft import graft
from moonshine_tune.export.parity.graphs import compare_weights
from moonshine_tune.export.parity.stages import open_graphs
from moonshine_tune.export.smoothing import Smoothing, choose_smoothing
from moonshine_tune.export.tensors import model_tensors
from moonshine_tune.models.base import NormReaders, SpeechModel
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.registry.resolve import ResolvedModel
from moonshine_tune.registry.wheel import WheelAssets
from moonshine_tune.runtime.layout import RuntimeLayout, read_layout
from moonshine_tune.runtime.naming import name_tensors
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.quantized import Doubles, Floats

pytestmark = pytest.mark.real_model

_GAIN = "model.encoder.layers.2.post_attention_layernorm.weight"


@dataclass(frozen=True)
class _Adapted:
    """An adapted model, its base's tensors, and the moments of a clip."""

    layout: RuntimeLayout
    model: SpeechModel
    base: dict[str, Floats]
    merged: dict[str, Floats]
    moments: dict[str, Doubles]
    clip: Floats

    def smoothing(self) -> Smoothing:
        return choose_smoothing(
            self.layout, _norms(self.model), self.base, self.merged, self.moments
        )


def _norms(model: SpeechModel) -> list[NormReaders]:
    return [norm for norm in model.norm_readers() if norm.gain.startswith("model.encoder.")]


@pytest.fixture(scope="module")
def adapted(real_tiny: ResolvedModel, wheel_assets: WheelAssets) -> _Adapted:
    model = load_checkpoint(real_tiny.checkpoint_dir)
    base = {name: value.copy() for name, value in model_tensors(model).items()}
    rng = np.random.default_rng(1)
    # Those of the encoder: rounding the decoder's would take as long again.
    names = [name for norm in _norms(model) for name in norm.matrices]
    merged = {
        name: base[name] + np.float32(0.02) * rng.standard_normal(base[name].shape, np.float32)
        * base[name].std()
        for name in names
    }  # fmt: skip
    state = {name: torch.from_numpy(value) for name, value in merged.items()}
    model.module.load_state_dict(state, strict=False)
    samples = load_audio(wheel_assets.two_cities)
    clip, other = samples[16000:80000], samples[160000:240000]
    with torch.no_grad(), input_moments(model, names) as sums:
        model.encode(torch.from_numpy(other)[None], (len(other),))
    moments = {name: total.numpy() for name, total in sums.items()}
    return _Adapted(read_layout(wheel_assets.runtime_dir), model, base, merged, moments, clip)


def test_products_of_normalized_inputs_stay(adapted: _Adapted) -> None:
    smoothing = adapted.smoothing()
    tensors = smoothing.tensors(adapted.merged)
    assert len(tensors) == len(set(tensors)) == len(adapted.merged) + len(smoothing.gains)
    norms = _norms(adapted.model)
    assert set(smoothing.gains) == {norm.gain for norm in norms}
    for norm in norms:
        for name in norm.matrices:
            before = adapted.merged[name] * adapted.base[norm.gain]
            after = tensors[name] * tensors[norm.gain]
            np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-7)


def test_the_runtime_comes_nearer_to_torch(adapted: _Adapted, tmp_path: Path) -> None:
    smoothing = adapted.smoothing()
    plain = tmp_path / "plain"
    smooth = tmp_path / "smooth"
    plain.mkdir()
    smooth.mkdir()
    base = {name: adapted.base[name] for name in adapted.merged}
    graft(adapted.layout, base, adapted.merged, plain, moments=adapted.moments)
    graft(
        adapted.layout, base | smoothing.base_gains, smoothing.tensors(adapted.merged), smooth,
        moments=smoothing.moments(adapted.moments),
    )  # fmt: skip
    assert _error(adapted, smooth) < 0.8 * _error(adapted, plain)
    assert (smooth / "encoder_model.ort").stat().st_size == (
        (plain / "encoder_model.ort").stat().st_size
    )


def _error(adapted: _Adapted, folder: Path) -> float:
    """Distance of the encoder's states from torch's, as a share."""
    graphs = open_graphs(read_layout(folder))
    (states,) = graphs.compare_encoder(adapted.model, adapted.clip)
    away = np.linalg.norm(states.from_graph - states.from_torch)
    return float(away / np.linalg.norm(states.from_torch))


def test_the_parity_gate_reads_gains_with_their_matrices(adapted: _Adapted, tmp_path: Path) -> None:
    smoothing = adapted.smoothing()
    base = {name: adapted.base[name] for name in adapted.merged} | dict(smoothing.base_gains)
    graft(adapted.layout, base, smoothing.tensors(adapted.merged), tmp_path,
          moments=smoothing.moments(adapted.moments))  # fmt: skip
    norms, trained = _norms(adapted.model), adapted.base | adapted.merged
    exported = read_layout(tmp_path)
    result = compare_weights(exported, trained, norms)
    assert result.checked >= len(trained) - 1
    assert not result.different
    # Without the normalizations, gains and matrices are not the trained ones.
    assert compare_weights(exported, trained).different
    file = OrtFile.read(tmp_path / "encoder_model.ort")
    (gain,) = [item.tensor for item in name_tensors(exported) if item.key == _GAIN]
    wrong = gain.dequantize(file) * np.float32(1.5)
    (tmp_path / file.path.name).write_bytes(file.patched(gain.requantize(wrong, file)))
    different = compare_weights(exported, trained, norms).different
    assert [item.tensor for item in different] == ["model.encoder.layers.2.mlp.fc1.weight"]


def test_only_matrices_that_are_written_anyway_are_smoothed(adapted: _Adapted) -> None:
    merged = dict(adapted.merged)
    del merged["model.encoder.layers.0.self_attn.q_proj.weight"]
    unchanged = "model.encoder.layers.1.mlp.fc1.weight"
    merged[unchanged] = adapted.base[unchanged]
    norms = _norms(adapted.model)
    smoothing = choose_smoothing(adapted.layout, norms, adapted.base, merged, adapted.moments)
    assert {norm.gain for norm in norms} - set(smoothing.gains) == {
        "model.encoder.layers.0.input_layernorm.weight",
        "model.encoder.layers.1.post_attention_layernorm.weight",
    }


@pytest.mark.parametrize("kind", ["constant", "zero", "twice", "not stored"])
def test_a_gain_that_the_files_do_not_show_stays(adapted: _Adapted, kind: str) -> None:
    gain = adapted.base[_GAIN]
    values = {
        "constant": np.ones_like(gain),
        "zero": np.where(np.arange(len(gain)) == 3, np.float32(0), gain),
        "twice": gain,
        "not stored": gain + np.float32(0.5),
    }[kind]
    base = adapted.base | {_GAIN: values}
    if kind == "twice":
        base["model.encoder.layer_norm.weight"] = gain
    norms = _norms(adapted.model)
    smoothing = choose_smoothing(adapted.layout, norms, base, adapted.merged, adapted.moments)
    assert set(smoothing.gains) == {norm.gain for norm in norms} - {_GAIN}


def test_an_offset_of_the_gain_is_kept(adapted: _Adapted) -> None:
    """Streaming encoders add one to it."""
    (matrix,) = names = ("model.encoder.layers.2.mlp.fc1.weight",)
    base = adapted.base | {_GAIN: adapted.base[_GAIN] - np.float32(1)}
    norm = NormReaders(_GAIN, 1.0, names)
    smoothing = choose_smoothing(adapted.layout, [norm], base, adapted.merged, adapted.moments)
    after = smoothing.tensors(adapted.merged)[matrix] * (smoothing.gains[_GAIN] + np.float32(1))
    before = adapted.merged[matrix] * adapted.base[_GAIN]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-6)

"""Graphs built without a base folder: they compute what torch computes, and can be read back."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.export.graft import graft
from moonshine_tune.export.graphs import build_graphs
from moonshine_tune.export.parity.graphs import ParityClip, check_graphs
from moonshine_tune.export.tensors import model_tensors
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.runs.records import ParityRecord
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.naming import name_tensors
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.quantized import QuantizedTensor, quantized_tensors
from moonshine_tune.runtime.rebuild import read_weights, rebuild_checkpoint
from moonshine_tune.runtime.streaming_config import encoder_windows

pytestmark = pytest.mark.usefixtures("one_thread")

Floats = npt.NDArray[np.float32]
Build = Callable[..., SpeechModel]
Clip = Callable[..., Floats]

_FAMILIES = ("v1", "streaming")
_LOG_K = "model.encoder.embedder.comp.log_k"
_FC1 = "model.decoder.layers.1.mlp.fc1.weight"


def _stored(model: SpeechModel) -> dict[str, Floats]:
    """What a runtime folder stores: a tied head once, the front end's exponent as a number."""
    weights = model_tensors(model)
    dropped = {_LOG_K} | ({"proj_out.weight"} if model.family == "v1" else set())
    return {key: value for key, value in weights.items() if key not in dropped}


def _traced(model: SpeechModel, out: Path, scheme: str = "int8") -> dict[str, Floats]:
    out.mkdir()
    weights = model_tensors(model)
    build_graphs(model, weights, out, scheme=scheme)
    return weights


@pytest.fixture(scope="module")
def folders(build_model: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`v1-int8`, `v1-none`, `streaming-int8` and `streaming-none`. Read only."""
    root = tmp_path_factory.mktemp("traced")
    for family in _FAMILIES:
        for scheme in ("int8", "none"):
            _traced(build_model(family), root / f"{family}-{scheme}", scheme)
    return root


def _checked(model: SpeechModel, folder: Path, clip: Floats) -> ParityRecord:
    clips = [ParityClip("one", clip, "it was the best of times")]
    return check_graphs(read_layout(folder), model, model_tensors(model), clips)


@pytest.mark.parametrize("family", _FAMILIES)
def test_float_graphs_compute_exactly_what_torch_computes(
    folders: Path, build_model: Build, make_clip: Clip, family: str
) -> None:
    result = _checked(build_model(family), folders / f"{family}-none", make_clip(1.6, 3)[:25_600])
    assert result.passed, result.first_difference
    assert max(item.relative for item in result.graphs) < 1e-4
    assert result.tokens.agreement == 1.0 and result.tokens.count == 26
    assert result.weights.note is None and result.weights.checked >= 60


@pytest.mark.parametrize("family", _FAMILIES)
def test_eight_bit_graphs_stay_within_the_band(
    folders: Path, build_model: Build, make_clip: Clip, family: str
) -> None:
    result = _checked(build_model(family), folders / f"{family}-int8", make_clip(1.6, 3)[:25_600])
    assert result.passed, result.first_difference
    by_graph = {item.graph: item.relative for item in result.graphs}
    decoder = "decoder_model_merged.ort" if family == "v1" else "decoder_kv.ort"
    assert 1e-4 < by_graph[decoder] < 0.12
    if family == "streaming":
        # The front end is not quantized: its inputs have the range of 16-bit audio.
        assert by_graph["frontend.ort"] < 1e-4
        assert result.window_rule == "exclusive"


def test_every_matrix_but_the_front_ends_has_a_scale_for_each_output(folders: Path) -> None:
    for graph in ("encoder.ort", "adapter.ort", "cross_kv.ort", "decoder_kv.ort"):
        file = OrtFile.read(folders / "streaming-int8" / graph)
        result = list(quantized_tensors(file))
        assert result, graph
        tables = [tensor for tensor in result if tensor.axis is None]
        # Tables that rows are looked up in have one scale: a row is not a channel of a product.
        assert all(t.name.startswith("model.decoder.") and "emb" in t.name for t in tables), graph
        assert all(t.axis == 1 for t in result if t not in tables)
    assert not list(quantized_tensors(OrtFile.read(folders / "streaming-int8" / "frontend.ort")))


@pytest.mark.parametrize("family", _FAMILIES)
def test_a_graft_into_many_scales_is_as_close_as_new_graphs(
    folders: Path, build_model: Build, tmp_path: Path, family: str
) -> None:
    """Files with a scale for each output channel, as those of every streaming model are."""
    model = build_model(family)
    base = {key: value for key, value in model_tensors(model).items() if "_proj.weight" in key}
    rng = np.random.default_rng(0)
    merged = {}
    for key, value in base.items():
        change = rng.standard_normal((len(value), 2)) @ rng.standard_normal((2, value.shape[1]))
        merged[key] = (value + 0.02 * value.std() * change).astype(np.float32)
    for name in ("graft", "trace"):
        (tmp_path / name).mkdir()
    graft(read_layout(folders / f"{family}-int8"), base, merged, tmp_path / "graft")
    build_graphs(model, model_tensors(model) | merged, tmp_path / "trace")
    changes = {key: merged[key] - base[key] for key in base}
    grafted, traced = (
        _lost_of_changes(tmp_path / name, merged, changes) for name in ("graft", "trace")
    )
    assert grafted.keys() == traced.keys() == base.keys()
    assert max(grafted[key] / traced[key] for key in base) < 1.15
    assert np.mean([grafted[key] / traced[key] for key in base]) < 1.05


def _lost_of_changes(
    folder: Path, merged: dict[str, Floats], changes: dict[str, Floats]
) -> dict[str, float]:
    """Norm of the error of each stored matrix, as a share of the norm of its change."""
    return {
        item.key: float(
            np.linalg.norm(item.read() - merged[item.key]) / np.linalg.norm(changes[item.key])
        )
        for item in name_tensors(read_layout(folder))
        if item.key in merged
    }


@pytest.mark.parametrize("scheme", ["int8", "none"])
def test_a_streaming_folder_is_rebuilt_to_a_checkpoint(
    folders: Path, build_model: Build, make_clip: Clip, tmp_path: Path, scheme: str
) -> None:
    model = build_model("streaming")
    folder = folders / f"streaming-{scheme}"
    report = rebuild_checkpoint(folder, tmp_path / "checkpoint")
    with pytest.raises(RequestError, match="exists already"):
        rebuild_checkpoint(folder, tmp_path / "checkpoint")
    weights = model_tensors(model)
    again = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert again.keys() == weights.keys() and report.tensors == len(weights)
    steps = {item.key: item for item in name_tensors(read_layout(folder))}
    for key, value in again.items():
        wanted, bound = weights[key].reshape(value.shape), 1e-5
        named = steps.get(key)
        if named is not None and isinstance(named.tensor, QuantizedTensor):
            bound = 0.501 * float(named.tensor.step(named.file).max())
        assert np.abs(value - wanted).max() <= bound, key
    # It is the same kind of model: windows, heads, rotation and all.
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    own = model.module.config.to_dict()
    assert config["encoder_config"]["sliding_windows"] == [[16, 4], [16, 1]]
    for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "head_dim"):
        assert config[key] == own[key], key
    assert config["rope_parameters"]["rope_theta"] == own["rope_parameters"]["rope_theta"]
    rebuilt = load_checkpoint(tmp_path / "checkpoint")
    assert rebuilt.tokenizer.encode("it was 4") == model.tokenizer.encode("it was 4")
    if scheme == "none":
        import torch

        clip, ids = torch.from_numpy(make_clip(1.0, 5))[None], torch.tensor([[1, 270, 280, 9]])
        logits = []
        with torch.inference_mode():
            for candidate in (model, rebuilt):
                states = candidate.encode(clip, [clip.shape[1]])
                logits.append(candidate.decoder_logits(states, ids))
        assert float((logits[0] - logits[1]).norm() / logits[0].norm()) < 1e-4


def test_the_windows_are_read_off_the_graph(folders: Path) -> None:
    from moonshine_tune.runtime.graph_map import GraphMap

    graph = GraphMap(OrtFile.read(folders / "streaming-int8" / "encoder.ort"))
    assert encoder_windows(graph) == [(15, 3), (15, 0)]


@pytest.mark.parametrize("family", _FAMILIES)
@pytest.mark.parametrize("scheme", ["int8", "none"])
def test_grafting_an_unchanged_model_gives_the_same_bytes(
    folders: Path, build_model: Build, tmp_path: Path, family: str, scheme: str
) -> None:
    layout = read_layout(folders / f"{family}-{scheme}")
    base = _stored(build_model(family))
    report = graft(layout, base, base, tmp_path)
    assert (report.matrices, report.changed_files) == (len(base), ())
    for name in layout.files:
        assert (tmp_path / name).read_bytes() == (layout.folder / name).read_bytes(), name


@pytest.mark.parametrize("family", _FAMILIES)
@pytest.mark.parametrize("scheme", ["int8", "none"])
def test_every_kind_of_tensor_can_be_grafted(
    folders: Path, build_model: Build, make_clip: Clip, tmp_path: Path, family: str, scheme: str
) -> None:
    """Full tuning: linear, embedding, convolution, norm and bias, all at once."""
    model = build_model(family)
    base = _stored(model)
    rng = np.random.default_rng(3)
    tuned = {
        key: (value + 0.05 * value.std() * rng.standard_normal(value.shape)).astype(np.float32)
        for key, value in base.items()
    }
    layout = read_layout(folders / f"{family}-{scheme}")
    report = graft(layout, base, tuned, tmp_path)
    assert report.changed == report.matrices == len(base)
    assert set(report.changed_files) == {n for n in layout.files if n.endswith(".ort")}
    import torch

    state = {key: torch.from_numpy(value) for key, value in tuned.items()}
    missing, unexpected = model.module.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {_LOG_K, "proj_out.weight"}
    result = _checked(model, tmp_path, make_clip(1.6, 3)[:25_600])
    assert result.passed, result.first_difference
    assert result.weights.checked >= len(base) - 1
    if scheme == "none":
        assert max(item.relative for item in result.graphs) < 1e-4


@pytest.mark.parametrize("family", _FAMILIES)
def test_what_was_grafted_reads_back_to_half_a_step(
    folders: Path, build_model: Build, tmp_path: Path, family: str
) -> None:
    """Graft, then read as a rebuild does: every tensor is the tuned one, to half a step."""
    base = _stored(build_model(family))
    rng = np.random.default_rng(4)
    tuned = {
        key: (value + 0.1 * value.std() * rng.standard_normal(value.shape)).astype(np.float32)
        for key, value in base.items()
    }
    layout = read_layout(folders / f"{family}-int8")
    (tmp_path / "out").mkdir()
    graft(layout, base, tuned, tmp_path / "out")
    grafted = read_layout(tmp_path / "out")
    again = read_weights(grafted)
    assert again.keys() - {_LOG_K} == tuned.keys()
    quantized = {item.key: item for item in name_tensors(grafted)
                 if isinstance(item.tensor, QuantizedTensor)}  # fmt: skip
    assert len(quantized) > 20
    for key, wanted in tuned.items():
        item = quantized.get(key)
        bound = 1e-5
        if item is not None:
            bound = 0.501 * float(item.tensor.step(item.file).max())
        assert np.abs(again[key].reshape(wanted.shape) - wanted).max() <= bound, key


def test_a_change_of_one_norm_writes_one_file(
    folders: Path, build_model: Build, tmp_path: Path
) -> None:
    layout = read_layout(folders / "streaming-int8")
    base = _stored(build_model("streaming"))
    key = "model.encoder.final_norm.gamma"
    report = graft(layout, base, base | {key: base[key] * 1.5}, tmp_path)
    assert (report.changed, report.changed_files) == (1, ("encoder.ort",))
    again = {item.key: item.read() for item in name_tensors(read_layout(tmp_path))}
    assert np.allclose(again[key], base[key] * 1.5, atol=1e-6)


def test_a_tied_head_is_changed_with_its_embedding(
    folders: Path, build_model: Build, tmp_path: Path
) -> None:
    layout = read_layout(folders / "v1-int8")
    base = _stored(build_model("v1"))
    key = "model.decoder.embed_tokens.weight"
    graft(layout, base, base | {key: base[key] * 1.5}, tmp_path)
    named = [item for item in name_tensors(read_layout(tmp_path))
             if item.key in (key, "proj_out.weight")]  # fmt: skip
    assert {item.key for item in named} == {key, "proj_out.weight"}
    for item in named:
        step = float(item.tensor.step(item.file).max())
        assert np.abs(item.read() - 1.5 * base[key]).max() <= 0.51 * step


def test_a_tensor_without_a_form_of_its_own_is_refused(
    folders: Path, build_model: Build, tmp_path: Path
) -> None:
    """A constant tensor could be any constant tensor."""
    base = _stored(build_model("streaming"))
    key = "model.decoder.norm.weight"
    flat = base | {key: np.ones_like(base[key])}
    with pytest.raises(ProblemsError, match="constant in the base") as caught:
        graft(read_layout(folders / "streaming-int8"), flat, flat | {key: base[key]}, tmp_path)
    assert "--method trace" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda config: setattr(config, "hidden_act", "relu"), "decoder activation 'relu'"),
        (lambda config: setattr(config, "attention_bias", True), "attention bias True"),
    ],
)
def test_what_no_graph_has_is_refused_by_name(
    build_model: Build, tmp_path: Path, change: Callable[[object], None], named: str
) -> None:
    model = build_model("streaming")
    change(model.module.config)
    with pytest.raises(RequestError, match=named):
        build_graphs(model, model_tensors(model), tmp_path)
    assert not list(tmp_path.iterdir())

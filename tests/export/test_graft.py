"""Grafting into the real runtime files of tiny, and rebuilding from what was grafted."""

import filecmp
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from moonshine_tune.audio.io import load_audio
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.export.graft import graft
from moonshine_tune.export.parity.graphs import compare_weights
from moonshine_tune.export.parity.stages import open_graphs
from moonshine_tune.registry.resolve import ResolvedModel
from moonshine_tune.registry.wheel import WheelAssets
from moonshine_tune.runtime.layout import STREAMING_FILES, RuntimeLayout, read_layout
from moonshine_tune.runtime.naming import name_tensors
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.quantized import (
    QuantizedTensor,
    quantized_tensors,
    takes_channel_scales,
    with_channel_scales,
)
from moonshine_tune.runtime.rebuild import rebuild_checkpoint
from moonshine_tune.runtime.tokenizer import read_pieces
from moonshine_tune.runtime.transcriber import RuntimeTranscriber

pytestmark = pytest.mark.real_model

Floats = npt.NDArray[np.float32]
Weights = dict[str, Floats]

_FC1 = "model.decoder.layers.3.mlp.fc1.weight"
_ENCODER_FC1 = "model.encoder.layers.2.mlp.fc1.weight"
_ENCODER_FC2 = "model.encoder.layers.2.mlp.fc2.weight"
_ENCODER_QUERY = "model.encoder.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def layout(wheel_assets: WheelAssets) -> RuntimeLayout:
    return read_layout(wheel_assets.runtime_dir)


@pytest.fixture(scope="module")
def weights(real_tiny: ResolvedModel) -> Weights:
    """All tensors of the rebuilt checkpoint."""
    return dict(load_file(real_tiny.checkpoint_dir / "model.safetensors"))


def _linear(weights: Weights) -> Weights:
    """Everything that any adapter site touches."""
    return {
        name: value
        for name, value in weights.items()
        if name.endswith(("_proj.weight", "fc1.weight", "fc2.weight"))
    }


def _adapted(weight: Floats, seed: int = 1) -> Floats:
    """What a LoRA of rank 4 makes of a matrix; it moves the largest value too."""
    rng = np.random.default_rng(seed)
    rows, columns = weight.shape
    down, up = rng.standard_normal((4, columns)), rng.standard_normal((rows, 4))
    adapted = weight + 0.1 * float(weight.std()) * (up @ down)
    return adapted.astype(np.float32)


def test_an_unchanged_model_gives_the_same_bytes(
    layout: RuntimeLayout, weights: Weights, tmp_path: Path
) -> None:
    base = _linear(weights)
    assert len(base) == 6 * (6 + 10)
    report = graft(layout, base, base, tmp_path)
    assert (report.matrices, report.changed, report.changed_files) == (96, 0, ())
    same, different, missing = filecmp.cmpfiles(
        layout.folder, tmp_path, layout.files, shallow=False
    )
    assert (sorted(same), different, missing) == (sorted(layout.files), [], [])
    assert {path.name for path in tmp_path.iterdir()} == set(layout.files)
    assert report.sha256 == {name: sha256_of(layout.folder / name) for name in layout.files}


def _off_the_grid(weight: Floats, seed: int = 7) -> Floats:
    """What a float checkpoint has where the runtime's file has this: up to 0.4 steps away.

    The largest and the smallest value stay, since they make the grid.
    """
    noise = np.random.default_rng(seed).uniform(-0.4, 0.4, weight.shape) * _step(weight)
    noise[(weight == weight.max()) | (weight == weight.min())] = 0
    return (weight + noise).astype(np.float32)


def _step(weight: Floats) -> float:
    """The quantization step that the v1 scheme takes for a matrix."""
    return float(max(weight.max(), 0) - min(weight.min(), 0)) / 255


def test_weights_that_are_rewritten_unchanged_give_the_same_bytes(
    layout: RuntimeLayout, weights: Weights, tmp_path: Path
) -> None:
    """The same, through the quantizer: a difference below 32-bit rounding changes no byte."""
    base = {_FC1: _off_the_grid(weights[_FC1])}
    nudged = np.nextafter(base[_FC1], np.float32(np.inf))
    report = graft(layout, base, {_FC1: nudged}, tmp_path, scales="tensor")
    assert report.changed == 1
    for name in layout.files:
        assert filecmp.cmp(layout.folder / name, tmp_path / name, shallow=False)


@pytest.mark.parametrize(
    ("name", "file"),
    [(_FC1, "decoder_model_merged.ort"), (_ENCODER_QUERY, "encoder_model.ort")],
)
def test_one_changed_matrix_changes_one_file(
    layout: RuntimeLayout, weights: Weights, tmp_path: Path, name: str, file: str
) -> None:
    base = _linear(weights)
    merged = base | {name: _adapted(base[name])}
    report = graft(layout, base, merged, tmp_path, scales="tensor")
    assert (report.changed, report.changed_files) == (1, (file,))
    assert 0.4 < report.worst_step_error < 1.01
    others = [path for path in layout.files if path != file]
    assert all(filecmp.cmp(layout.folder / o, tmp_path / o, shallow=False) for o in others)
    before, after = OrtFile.read(layout.folder / file), OrtFile.read(tmp_path / file)
    moved = [
        (old, new)
        for old, new in zip(quantized_tensors(before), quantized_tensors(after), strict=True)
        if not np.array_equal(before.array(old.values), after.array(new.values))
    ]
    assert len(moved) == 1
    new = moved[0][1]
    # Read back by hand: stored [in, out], one scale a tensor.
    scale = float(after.array(new.scale).reshape(()))
    zero = int(after.array(new.zero_point).reshape(()))
    stored = (after.array(new.values).astype(np.float64) - zero) * scale
    assert np.abs(stored.T - merged[name]).max() <= 1.01 * scale
    # Nothing but this matrix, its scale and its zero point was written.
    touched = {
        offset
        for item in (new.values, new.scale, new.zero_point)
        for offset in range(item.offset, item.offset + item.size)
    }
    old_bytes = np.frombuffer(before.data, np.uint8)
    new_bytes = np.frombuffer(after.data, np.uint8)
    assert len(old_bytes) == len(new_bytes)
    assert set(np.flatnonzero(old_bytes != new_bytes).tolist()) <= touched


@pytest.mark.parametrize("name", [_FC1, _ENCODER_QUERY, _ENCODER_FC2])
def test_each_output_channel_gets_a_scale(
    layout: RuntimeLayout, weights: Weights, tmp_path: Path, name: str
) -> None:
    """Read back by hand: stored [in, out], a scale for each column and one zero point."""
    base = {name: weights[name]}
    wanted = _adapted(base[name])
    wanted[3] *= 0.05
    report = graft(layout, base, {name: wanted}, tmp_path, scales="channel")
    assert report.channel_scales == 1
    (changed,) = report.changed_files
    before, after = OrtFile.read(layout.folder / changed), OrtFile.read(tmp_path / changed)
    (new,) = [tensor for tensor in quantized_tensors(after) if tensor.scale.shape]
    scale = after.array(new.scale).astype(np.float64)
    zero = after.array(new.zero_point).astype(np.float64)
    assert scale.shape == (len(wanted),) and zero.shape == ()
    stored = (after.array(new.values).astype(np.float64) - zero) * scale
    assert np.all(np.abs(stored.T - wanted) <= 0.51 * scale[:, None])
    assert report.worst_step_error <= 0.51
    # A row of small values keeps them, which one scale for the matrix does not.
    assert np.abs(stored.T[3] - wanted[3]).max() < 0.1 * _step(wanted)
    # The file grew at its end. Before that, only this matrix and a few offsets differ.
    old_bytes = np.frombuffer(before.data, np.uint8)
    new_bytes = np.frombuffer(after.data, np.uint8)[: len(old_bytes)]
    away = np.flatnonzero(old_bytes != new_bytes)
    inside = (away >= new.values.offset) & (away < new.values.offset + new.values.size)
    assert np.count_nonzero(~inside) <= 64
    assert 0 < len(after.data) - len(old_bytes) < 4 * len(wanted) + 1024
    assert [t.name for t in quantized_tensors(after)] == [t.name for t in quantized_tensors(before)]


def test_auto_spares_the_products_of_every_token(
    layout: RuntimeLayout, weights: Weights, tmp_path: Path
) -> None:
    """A token pays for each scale, most for matrices with many columns and few rows."""
    spared = {_FC1, "model.decoder.layers.3.encoder_attn.q_proj.weight"}
    names = [*spared, _FC1.replace("fc1", "fc2"), _ENCODER_FC1, _ENCODER_QUERY]
    names.append("model.decoder.layers.3.encoder_attn.k_proj.weight")
    base = {name: weights[name] for name in names}
    merged = {name: _adapted(value) for name, value in base.items()}
    report = graft(layout, base, merged, tmp_path)
    finer = {
        item.key
        for item in name_tensors(read_layout(tmp_path))
        if isinstance(item.tensor, QuantizedTensor) and item.tensor.axis is not None
    }
    assert finer == set(names) - spared
    assert report.channel_scales == 4


def test_the_parity_gate_reads_scales_of_channels(
    layout: RuntimeLayout, weights: Weights, tmp_path: Path
) -> None:
    base = {_ENCODER_FC1: weights[_ENCODER_FC1]}
    merged = {_ENCODER_FC1: _adapted(base[_ENCODER_FC1])}
    graft(layout, base, merged, tmp_path)
    exported = read_layout(tmp_path)
    result = compare_weights(exported, weights | merged)
    assert result.checked >= len(weights) and not result.different
    file = OrtFile.read(tmp_path / "encoder_model.ort")
    (tensor,) = [tensor for tensor in quantized_tensors(file) if tensor.axis is not None]
    wrong = (file.array(tensor.scale) * np.float32(1.5)).tobytes()
    (tmp_path / "encoder_model.ort").write_bytes(file.patched({tensor.scale.offset: wrong}))
    (different,) = compare_weights(exported, weights | merged).different
    assert different.tensor == _ENCODER_FC1


def test_the_runtime_computes_with_the_scales_of_the_channels(
    layout: RuntimeLayout, wheel_assets: WheelAssets, tmp_path: Path
) -> None:
    """The base's own values with its one scale written once for each channel: the same answers."""
    for name in layout.files:
        source = layout.folder / name
        if name.endswith(".ort"):
            file = OrtFile.read(source)
            coarse = [t for t in quantized_tensors(file) if t.name in takes_channel_scales(file)]
            assert len(coarse) == {"encoder_model.ort": 36, "decoder_model_merged.ort": 61}[name]
            wider = with_channel_scales(file, coarse)
            assert sum(bool(t.scale.shape) for t in quantized_tensors(wider)) == len(coarse)
            (tmp_path / name).write_bytes(wider.data)
        else:
            (tmp_path / name).write_bytes(source.read_bytes())
    clip = load_audio(wheel_assets.beckett)[:48_000]
    feeds = {"input_values": clip[None], "attention_mask": np.ones((1, len(clip)), np.int64)}
    old, new = (
        open_graphs(read_layout(folder)).run("encoder_model.ort", feeds)[0]
        for folder in (layout.folder, tmp_path)
    )
    assert np.array_equal(old, new)
    # The version of the runtime that is installed loads them, with the onnxruntime inside of it.
    with RuntimeTranscriber(layout.folder) as runtime:
        expected = runtime.transcribe([clip])
    with RuntimeTranscriber(tmp_path) as runtime:
        assert runtime.transcribe([clip]) == expected != [""]


def test_a_float_base_is_rounded_to_the_nearest_step(
    layout: RuntimeLayout, weights: Weights, tmp_path: Path
) -> None:
    base = {_FC1: _off_the_grid(weights[_FC1])}
    report = graft(layout, base, {_FC1: _adapted(base[_FC1])}, tmp_path, scales="tensor")
    assert report.changed_files == ("decoder_model_merged.ort",)
    assert 0.4 < report.worst_step_error < 0.51


@pytest.mark.parametrize("scales", ["channel", "tensor"])
def test_changes_below_half_a_step_are_not_lost(
    layout: RuntimeLayout, weights: Weights, tmp_path: Path, scales: str
) -> None:
    """A rebuilt base lies on the grid, and a small adapter would round away as a whole.

    What is stored has to follow it on average: the regression of the stored change on the wanted
    one has slope 1, not 0.
    """
    base = weights[_FC1]
    step = _step(base)
    wanted = _adapted(base) - base
    wanted *= 0.2 * step / np.abs(wanted).max()
    wanted[(base == base.max()) | (base == base.min())] = 0
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        report = graft(layout, {_FC1: base}, {_FC1: base + wanted}, tmp_path / name, scales=scales)
    assert report.worst_step_error <= 1.01
    stored = _read_back(tmp_path / "one", base)
    slope = float(np.sum((stored - base) * wanted) / np.sum(wanted * wanted))
    assert slope == pytest.approx(1.0, abs=0.1)
    # The chance is a fixed one: the same export gives the same files.
    for name in layout.files:
        assert filecmp.cmp(tmp_path / "one" / name, tmp_path / "two" / name, shallow=False)


def _read_back(folder: Path, base: Floats) -> Floats:
    """The stored matrix of the decoder that lies nearest to `base`."""
    file = OrtFile.read(folder / "decoder_model_merged.ort")
    candidates = [
        tensor.dequantize(file).T
        for tensor in quantized_tensors(file)
        if tensor.values.shape == base.T.shape
    ]
    return min(candidates, key=lambda stored: float(np.abs(stored - base).mean()))


def test_a_matrix_whose_range_grows_keeps_its_largest_values(
    layout: RuntimeLayout, weights: Weights, tmp_path: Path
) -> None:
    """Values beyond the stored range need a new scale, or they would be clipped."""
    base = {_FC1: weights[_FC1]}
    grown = base[_FC1].copy()
    grown[7, 11] = 3.0 * np.abs(grown).max()
    report = graft(layout, base, {_FC1: grown}, tmp_path)
    assert report.worst_step_error < 1.01
    stored = _read_back(tmp_path, grown)
    assert stored[7, 11] == pytest.approx(grown[7, 11], rel=0.01)


def test_rebuilding_what_was_grafted_gives_the_merged_model(
    layout: RuntimeLayout, weights: Weights, tmp_path: Path
) -> None:
    base = _linear(weights)
    adapted = {name: _adapted(base[name], seed) for seed, name in enumerate((_FC1, _ENCODER_QUERY))}
    (tmp_path / "runtime").mkdir()
    graft(layout, base, base | adapted, tmp_path / "runtime")
    report = rebuild_checkpoint(tmp_path / "runtime", tmp_path / "rebuilt")
    assert (report.tensors, report.parameters) == (len(weights), 27_092_736)
    again = load_file(tmp_path / "rebuilt" / "model.safetensors")
    assert again.keys() == weights.keys()
    for name, value in again.items():
        if name not in adapted:
            assert np.array_equal(value, weights[name]), name
            continue
        wanted = adapted[name]
        assert np.abs(value - wanted).max() <= 1.01 * _step(wanted)
        # Right on average: the rounding adds nothing of its own.
        assert abs(float((value - wanted).mean())) < 0.01 * _step(wanted)
        assert not np.array_equal(value, weights[name])


def test_files_of_other_weights_are_refused_with_the_list(
    layout: RuntimeLayout, weights: Weights, tmp_path: Path
) -> None:
    """Weights of another training of the same shape: no name in the files would tell."""
    base = _linear(weights)
    others = [_FC1, _ENCODER_QUERY]
    foreign = base | {name: _adapted(base[name]) for name in others}
    with pytest.raises(ProblemsError, match="2 of 96 adapted matrices") as caught:
        graft(layout, foreign, foreign, tmp_path)
    assert caught.value.problems == tuple(sorted(others))
    assert str(layout.folder) in caught.value.message
    assert "--base-runtime" in (caught.value.hint or "")


def test_half_a_step_off_is_another_model(
    layout: RuntimeLayout, weights: Weights, tmp_path: Path
) -> None:
    """One value of 331,776 that lies 0.6 steps away is enough."""
    off = weights[_FC1].copy()
    off[100, 200] += 0.6 * _step(off)
    with pytest.raises(ProblemsError, match="1 of 1"):
        graft(layout, {_FC1: off}, {_FC1: off}, tmp_path)


def test_equal_tensors_are_ambiguous(
    layout: RuntimeLayout, weights: Weights, tmp_path: Path
) -> None:
    twins = {_FC1: weights[_FC1], "model.decoder.layers.4.mlp.fc1.weight": weights[_FC1]}
    with pytest.raises(ProblemsError, match="matches several tensors"):
        graft(layout, twins, twins, tmp_path)


def test_a_folder_of_empty_files_is_one_plain_error(tmp_path: Path) -> None:
    folder = tmp_path / "streaming"
    folder.mkdir()
    for name in STREAMING_FILES:
        (folder / name).write_bytes(b"")
    with pytest.raises(RequestError, match=r"not an \.ort model file"):
        rebuild_checkpoint(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the tokenizer of the same folder


def test_every_text_comes_back_from_the_rebuilt_tokenizer(real_tiny: ResolvedModel) -> None:
    from moonshine_tune.models.checkpoint import load_tokenizer

    tokenizer = load_tokenizer(real_tiny.checkpoint_dir)
    texts = [
        "It was the best of times, it was the worst of times.",
        "Ever tried. Ever failed. No matter.",
        "4 6 2, runway 27L; squawk 7000 - don't!",
        "naïve façade, Zürich, Ωμέγα, Москва, 東京, 한국어, مرحبا",
        "emoji 🎙️ and a rare sign ꙮ",
        "a  double space",
        "x",
        "",
    ]
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= index < 32_768 for index in ids)
        assert not {1, 2} & set(ids)
    # Whole pieces, not letters: the merges are there.
    assert len(tokenizer.encode("It was the best of times")) == 6


def test_every_piece_is_spelled_as_the_runtime_spells_it(
    real_tiny: ResolvedModel, wheel_assets: WheelAssets
) -> None:
    from moonshine_tune.models.checkpoint import load_tokenizer

    pieces = read_pieces(wheel_assets.runtime_dir / "tokenizer.bin")
    raw = load_tokenizer(real_tiny.checkpoint_dir).raw
    assert len(pieces) == raw.get_vocab_size() == 32_768
    for index in range(259, 32_000):
        word = raw.id_to_token(index)
        assert word == pieces[index].decode("utf-8"), index
    # The raw bytes do not shadow real pieces: "." has its own id, and so has "4".
    ids = raw.get_vocab()
    for sign in (".", "4", ","):
        assert ids[sign] > 258
        assert pieces[ids[sign]] == sign.encode()


def test_the_written_tokenizer_is_the_published_one_to_the_last_byte(
    real_tiny: ResolvedModel, wheel_assets: WheelAssets, tmp_path: Path
) -> None:
    """Runtime file → checkpoint's tokenizer.json → runtime file."""
    from moonshine_tune.models.checkpoint import load_tokenizer
    from moonshine_tune.runtime.tokenizer import tokenizer_difference, write_tokenizer_bin

    raw = load_tokenizer(real_tiny.checkpoint_dir).raw
    write_tokenizer_bin(raw, tmp_path / "tokenizer.bin")
    published = wheel_assets.runtime_dir / "tokenizer.bin"
    assert filecmp.cmp(tmp_path / "tokenizer.bin", published, shallow=False)
    assert tokenizer_difference(published, raw) is None

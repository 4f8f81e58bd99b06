"""Parity graph by graph: planted faults are detected and named with their position."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.export.graphs import build_graphs
from moonshine_tune.export.parity.gate import compare_transcripts
from moonshine_tune.export.parity.graphs import (
    GraphParity,
    ParityClip,
    check_graphs,
    windows_read_as,
)
from moonshine_tune.export.tensors import model_tensors
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.naming import NamedTensor, name_tensors
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.quantized import QuantizedTensor
from moonshine_tune.runtime.tokenizer import read_pieces

pytestmark = pytest.mark.usefixtures("one_thread")

Floats = npt.NDArray[np.float32]
Build = Callable[..., SpeechModel]
Clip = Callable[..., Floats]

_FAMILIES = ("v1", "streaming")


@pytest.fixture(scope="module")
def exported(build_model: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `v1` and `streaming` without a fault. Read only."""
    folder = tmp_path_factory.mktemp("exported")
    for family in _FAMILIES:
        (folder / family).mkdir()
        model = build_model(family)
        build_graphs(model, model_tensors(model), folder / family)
    return folder


@pytest.fixture
def check(build_model: Build, make_clip: Clip) -> Callable[[Path, str], GraphParity]:
    def run(folder: Path, family: str) -> GraphParity:
        model = build_model(family)
        clips = [ParityClip("clip-7", make_clip(1.6, 3)[:25_600], "it was the best of times")]
        return check_graphs(read_layout(folder), model, model_tensors(model), clips)

    return run


def _named(folder: Path, ending: str) -> NamedTensor:
    return next(item for item in name_tensors(read_layout(folder)) if item.key.endswith(ending))


def _write(item: NamedTensor, changes: dict[int, bytes]) -> None:
    path = item.file.path
    path.write_bytes(OrtFile.read(path).patched(changes))


_SCALES = {
    "v1": [
        ("encoder.layers.1.self_attn.k_proj.weight", "encoder_model.ort"),
        ("decoder.layers.0.mlp.fc2.weight", "decoder_model_merged.ort"),
        ("decoder.layers.1.encoder_attn.v_proj.weight", "decoder_model_merged.ort"),
        ("decoder.embed_tokens.weight", "decoder_model_merged.ort"),
    ],
    "streaming": [
        ("encoder.layers.1.self_attn.k_proj.weight", "encoder.ort"),
        ("decoder.pos_emb.weight", "adapter.ort"),
        ("decoder.proj.weight", "adapter.ort"),
        ("decoder.layers.1.encoder_attn.v_proj.weight", "cross_kv.ort"),
        ("decoder.layers.0.self_attn.q_proj.weight", "decoder_kv.ort"),
        ("proj_out.weight", "decoder_kv.ort"),
    ],
}


@pytest.mark.parametrize(
    ("family", "ending", "graph"),
    [(family, *case) for family, cases in _SCALES.items() for case in cases],
)
def test_a_scale_that_is_off_by_two_is_detected(
    exported: Path,
    check: Callable[[Path, str], GraphParity],
    tmp_path: Path,
    family: str,
    ending: str,
    graph: str,
) -> None:
    folder = tmp_path / "faulty"
    shutil.copytree(exported / family, folder)
    item = _named(folder, ending)
    assert isinstance(item.tensor, QuantizedTensor)
    doubled = (2 * item.file.array(item.tensor.scale)).astype("<f4").tobytes()
    _write(item, {item.tensor.scale.offset: doubled})
    parity = check(folder, family)
    assert not parity.passed
    assert parity.first_difference is not None
    assert parity.first_difference.startswith(f"{graph}: ") and ending in parity.first_difference
    assert parity.weight_differences[0].relative > 0.5


@pytest.mark.parametrize("family", _FAMILIES)
def test_swapped_layers_are_detected(
    exported: Path, check: Callable[[Path, str], GraphParity], tmp_path: Path, family: str
) -> None:
    """Both matrices are in the files, each at the position of the other."""
    folder = tmp_path / "faulty"
    shutil.copytree(exported / family, folder)
    pair = [_named(folder, f"decoder.layers.{layer}.mlp.fc1.weight") for layer in (0, 1)]
    changes: dict[int, bytes] = {}
    for here, there in (pair, pair[::-1]):
        assert isinstance(here.tensor, QuantizedTensor) and isinstance(
            there.tensor, QuantizedTensor
        )
        for part in ("values", "scale", "zero_point"):
            own, other = getattr(here.tensor, part), getattr(there.tensor, part)
            changes[own.offset] = there.file.array(other).tobytes()
    _write(pair[0], changes)
    parity = check(folder, family)
    assert "decoder.layers.0.mlp.fc1.weight" in (parity.first_difference or "")
    assert len(parity.weight_differences) == 2


def test_a_wrong_window_is_detected_with_right_weights(
    build_model: Build, check: Callable[[Path, str], GraphParity], tmp_path: Path
) -> None:
    model = build_model("streaming")
    model.encoder.config.sliding_windows = [[6, 2], [16, 0]]
    build_graphs(model, model_tensors(model), tmp_path)
    parity = check(tmp_path, "streaming")
    assert not parity.weight_differences and parity.weights_checked > 50
    assert (parity.first_difference or "").startswith("encoder.ort: encoded differs from torch by ")
    assert "clip-7" in (parity.first_difference or "")


def test_the_hidden_states_show_the_window_rule(
    build_model: Build, check: Callable[[Path, str], GraphParity], tmp_path: Path
) -> None:
    model = build_model("streaming")
    with windows_read_as(model, "inclusive"):
        build_graphs(model, model_tensors(model), tmp_path)
    # The model is left as it was.
    assert [list(window) for window in model.encoder.config.sliding_windows] == [[16, 4], [16, 0]]
    parity = check(tmp_path, "streaming")
    assert parity.window_rule == "inclusive" and parity.passed


@pytest.mark.parametrize("family", _FAMILIES)
def test_a_truncated_file_is_a_plain_error(
    exported: Path, check: Callable[[Path, str], GraphParity], tmp_path: Path, family: str
) -> None:
    for name in read_layout(exported / family).files:
        if not name.endswith((".ort", ".bin")):
            continue
        folder = tmp_path / name
        shutil.copytree(exported / family, folder)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(RequestError) as caught:
            parity = check(folder, family)
            # A tokenizer that is cut between two pieces is too short, and the message says so.
            assert "pieces" in (parity.first_difference or "")
            raise RequestError(parity.first_difference or "", where=folder / name)
        assert name in str(caught.value)


def test_another_tokenizer_is_detected(
    exported: Path, check: Callable[[Path, str], GraphParity], tmp_path: Path
) -> None:
    folder = tmp_path / "faulty"
    shutil.copytree(exported / "streaming", folder)
    pieces = read_pieces(folder / "tokenizer.bin")
    pieces[260], pieces[261] = pieces[261], pieces[260]
    (folder / "tokenizer.bin").write_bytes(
        b"".join(bytes([len(piece)]) + piece for piece in pieces)
    )
    parity = check(folder, "streaming")
    assert "tokenizer.bin differs from the model's tokenizer in 2 pieces, first in id 260" in (
        parity.first_difference or ""
    )


def test_a_graph_whose_layout_is_unknown_is_still_compared_by_its_outputs(
    exported: Path, check: Callable[[Path, str], GraphParity], tmp_path: Path
) -> None:
    """Another model's graph under this one's name: shapes fit, weights and outputs do not."""
    folder = tmp_path / "faulty"
    shutil.copytree(exported / "streaming", folder)
    shutil.copyfile(folder / "cross_kv.ort", folder / "adapter.ort")
    with pytest.raises(RequestError):
        check(folder, "streaming")


def test_the_first_difference_goes_from_the_files_up(
    exported: Path, check: Callable[[Path, str], GraphParity]
) -> None:
    graphs = check(exported / "streaming", "streaming")
    rule = normalizer_for("spelled-1")
    fine = compare_transcripts(["a b c d"], ["a b c d"], rule, names=["x"])
    assert replace(fine, graphs=graphs).passed
    chunked = compare_transcripts(["a b", "c d"], ["a b", "c e"], rule, bound=5.0, names=["x", "y"])
    assert (chunked.identical, chunked.word_difference) == (1, 25.0)
    difference = replace(fine, graphs=graphs, chunked=chunked).first_difference
    assert difference is not None and difference.startswith("streaming: fed in chunks, 25.00 %")
    assert difference.endswith("first on clip y")
    few = replace(graphs, token_agreement=0.5)
    assert "50 % of" in (replace(fine, graphs=few, chunked=chunked).first_difference or "")


def test_the_record_is_plain_json(
    exported: Path, check: Callable[[Path, str], GraphParity]
) -> None:
    graphs = check(exported / "v1", "v1")
    fine = compare_transcripts(["a"], ["a"], normalizer_for("spelled-1"))
    record = json.loads(json.dumps(replace(fine, graphs=graphs).to_record()))
    assert [item["graph"] for item in record["graphs"]] == [
        "encoder_model.ort", "decoder_model_merged.ort",
    ]  # fmt: skip
    assert record["weights"]["checked"] == graphs.weights_checked > 50
    assert record["tokens"]["agreement"] >= 0.8 and record["window_rule"] is None

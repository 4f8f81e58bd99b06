"""The parity gate below the transcripts: planted faults are found, and named with their place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.export.graphs import build_graphs
from moonshine_tune.export.parity.gate import combine, compare_transcripts
from moonshine_tune.export.parity.graphs import (
    ParityClip,
    check_graphs,
    first_difference,
    windows_read_as,
)
from moonshine_tune.export.tensors import model_tensors
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.runs.records import ParityRecord
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
def sound(build_model: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `v1` and `streaming` as they should be. Read only."""
    root = tmp_path_factory.mktemp("sound")
    for family in _FAMILIES:
        (root / family).mkdir()
        model = build_model(family)
        build_graphs(model, model_tensors(model), root / family)
    return root


@pytest.fixture
def check(build_model: Build, make_clip: Clip) -> Callable[[Path, str], ParityRecord]:
    def run(folder: Path, family: str) -> ParityRecord:
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
def test_a_scale_off_by_two_is_found_wherever_it_is(
    sound: Path,
    check: Callable[[Path, str], ParityRecord],
    tmp_path: Path,
    family: str,
    ending: str,
    graph: str,
) -> None:
    folder = tmp_path / "faulty"
    shutil.copytree(sound / family, folder)
    item = _named(folder, ending)
    assert isinstance(item.tensor, QuantizedTensor)
    doubled = (2 * item.file.array(item.tensor.scale)).astype("<f4").tobytes()
    _write(item, {item.tensor.scale.offset: doubled})
    parity = check(folder, family)
    assert not parity.passed
    assert parity.first_difference is not None
    assert parity.first_difference.startswith(f"{graph}: ") and ending in parity.first_difference
    assert parity.weights.different[0].relative > 0.5


@pytest.mark.parametrize("family", _FAMILIES)
def test_two_layers_that_were_swapped_are_found(
    sound: Path, check: Callable[[Path, str], ParityRecord], tmp_path: Path, family: str
) -> None:
    """Both matrices are in the files, only each in the other's place."""
    folder = tmp_path / "faulty"
    shutil.copytree(sound / family, folder)
    pair = [_named(folder, f"decoder.layers.{layer}.mlp.fc1.weight") for layer in (0, 1)]
    changes: dict[int, bytes] = {}
    for here, there in (pair, pair[::-1]):
        assert isinstance(here.tensor, QuantizedTensor) and isinstance(
            there.tensor, QuantizedTensor
        )
        for part in ("values", "scale", "zero_point"):
            target, source = getattr(here.tensor, part), getattr(there.tensor, part)
            changes[target.offset] = there.file.array(source).tobytes()
    _write(pair[0], changes)
    parity = check(folder, family)
    assert "decoder.layers.0.mlp.fc1.weight" in (parity.first_difference or "")
    assert len(parity.weights.different) == 2


def test_a_wrong_window_is_found_though_all_weights_are_right(
    build_model: Build, check: Callable[[Path, str], ParityRecord], tmp_path: Path
) -> None:
    model = build_model("streaming")
    model.encoder.config.sliding_windows = [[6, 2], [16, 0]]
    build_graphs(model, model_tensors(model), tmp_path)
    parity = check(tmp_path, "streaming")
    assert not parity.weights.different and parity.weights.checked > 50
    assert (parity.first_difference or "").startswith("encoder.ort: encoded differs from torch by ")
    assert "clip-7" in (parity.first_difference or "")


def test_the_window_rule_is_found_by_the_hidden_states(
    build_model: Build, check: Callable[[Path, str], ParityRecord], tmp_path: Path
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
    sound: Path, check: Callable[[Path, str], ParityRecord], tmp_path: Path, family: str
) -> None:
    for name in read_layout(sound / family).files:
        if not name.endswith((".ort", ".bin")):
            continue
        folder = tmp_path / name
        shutil.copytree(sound / family, folder)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(RequestError) as caught:
            parity = check(folder, family)
            # A tokenizer may be cut between two pieces: then it is short, and said to be.
            assert "pieces" in (parity.first_difference or "")
            raise RequestError(parity.first_difference or "", where=folder / name)
        assert name in str(caught.value)


def test_another_tokenizer_is_found(
    sound: Path, check: Callable[[Path, str], ParityRecord], tmp_path: Path
) -> None:
    folder = tmp_path / "faulty"
    shutil.copytree(sound / "streaming", folder)
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
    sound: Path, check: Callable[[Path, str], ParityRecord], tmp_path: Path
) -> None:
    """Another model's graph under this one's name: shapes fit, weights and outputs do not."""
    folder = tmp_path / "faulty"
    shutil.copytree(sound / "streaming", folder)
    shutil.copyfile(folder / "cross_kv.ort", folder / "adapter.ort")
    with pytest.raises(RequestError):
        check(folder, "streaming")


def test_the_first_difference_goes_from_the_files_up(
    sound: Path, check: Callable[[Path, str], ParityRecord]
) -> None:
    graphs = check(sound / "streaming", "streaming")
    rule = normalizer_for("spelled-1")
    fine = compare_transcripts(["a b c d"], ["a b c d"], rule, names=["x"])
    assert combine(fine, graphs).passed
    chunked = compare_transcripts(
        ["a b", "c d"], ["a b", "c e"], rule, bound=5.0, names=["x", "y"],
        label="streaming: fed in chunks,",
    )  # fmt: skip
    assert (chunked.identical, chunked.word_difference) == (1, 25.0)
    message = combine(fine, graphs, chunked=chunked).first_difference
    assert message is not None and message.startswith("streaming: fed in chunks, 25.00 %")
    assert message.endswith("first on clip y")
    few = first_difference(graphs.weights, graphs.graphs, graphs.tokens.count, 0.5)
    assert few is not None and "50 % of" in few
    of_graphs = graphs.model_copy(update={"first_difference": few})
    assert combine(fine, of_graphs, chunked=chunked).first_difference == few


def test_what_is_measured_is_plain_json(
    sound: Path, check: Callable[[Path, str], ParityRecord]
) -> None:
    graphs = check(sound / "v1", "v1")
    fine = compare_transcripts(["a"], ["a"], normalizer_for("spelled-1"))
    record = json.loads(json.dumps(combine(fine, graphs).to_json()))
    assert [item["graph"] for item in record["graphs"]] == [
        "encoder_model.ort", "decoder_model_merged.ort",
    ]  # fmt: skip
    assert record["weights"]["checked"] == graphs.weights.checked > 50
    assert record["tokens"]["agreement"] >= 0.8 and record["window_rule"] is None

"""Grafting into every scheme that a graph can store a tensor in, on graphs made for that alone."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.stored_graphs import quantized_parts, spread_weights, write_graph

from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.export.graft import graft
from moonshine_tune.export.matching import find_matches
from moonshine_tune.runtime.layout import RuntimeLayout
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.quantized import QuantizedTensor

Floats = npt.NDArray[np.float32]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("dtype", "axis", "symmetric", "scale_type"),
    [
        ("u1", None, False, "f4"),
        ("u1", 1, False, "f4"),
        ("u1", 0, False, "f4"),
        ("i1", None, False, "f4"),
        ("i1", None, True, "f4"),
        ("i1", 1, True, "f4"),
        ("i1", 1, False, "f4"),
        ("u1", 1, False, "f2"),
    ],
)
def test_an_eight_bit_matrix_is_rewritten_in_its_own_scheme(
    tmp_path: Path,
    dtype: str,
    axis: int | None,
    symmetric: bool,
    scale_type: str,
    transposed: bool,
) -> None:
    stored = spread_weights((24, 40))
    parts = quantized_parts(stored, dtype, axis, symmetric=symmetric, scale_type=scale_type)
    layout = write_graph(tmp_path, parts)
    base = {"m.weight": np.ascontiguousarray(stored.T) if transposed else stored}
    _same_bytes(layout, base, tmp_path / "same")
    tuned = spread_weights((24, 40), 5) * 1.7
    after = {"m.weight": np.ascontiguousarray(tuned.T) if transposed else tuned}
    (tmp_path / "tuned").mkdir()
    report = graft(layout, base, after, tmp_path / "tuned")
    # A 16-bit step that was rounded down cuts the largest value off by an eighth of a step more.
    assert report.changed == 1 and report.worst_step_error < (0.52 if scale_type == "f4" else 0.64)
    wanted = quantized_parts(tuned, dtype, axis, symmetric=symmetric, scale_type=scale_type)
    file = OrtFile.read(tmp_path / "tuned" / "graph.ort")
    for name, value in wanted.items():
        result = file.array(name)
        assert result.dtype == value.dtype and result.shape == value.shape
        if name == "w_scale":
            assert np.allclose(result, value, rtol=1e-3)
        else:
            # A value on the edge between two levels may fall either way.
            assert np.abs(result.astype(int) - value.astype(int)).max() <= 1
            assert np.mean(result != value) < 0.01


@pytest.mark.parametrize("axis", [None, 0])
def test_an_eight_bit_convolution_is_rewritten(tmp_path: Path, axis: int | None) -> None:
    stored, tuned = spread_weights((12, 6, 5)), spread_weights((12, 6, 5), 9)
    parts = quantized_parts(stored, "i1", axis, symmetric=True)
    layout = write_graph(tmp_path, parts)
    _same_bytes(layout, {"conv.weight": stored}, tmp_path / "same")
    (tmp_path / "tuned").mkdir()
    graft(layout, {"conv.weight": stored}, {"conv.weight": tuned}, tmp_path / "tuned")
    file = OrtFile.read(tmp_path / "tuned" / "graph.ort")
    (match,) = find_matches(file, {"conv.weight": tuned})
    assert isinstance(match.tensor, QuantizedTensor) and match.tensor.axis == axis
    assert match.tensor.values.dtype == "i1"


@pytest.mark.parametrize("kind", ["f2", "f4"])
@pytest.mark.parametrize(
    ("name", "shape", "form"),
    [
        ("norm.weight", (64,), "plain"),
        ("norm.gamma", (64,), "plus-one"),
        ("fc.bias", (64,), "plain"),
        ("conv.weight", (8, 4, 3), "plain"),
        ("fc.weight", (12, 20), "transposed"),
        ("fc.weight", (12, 20), "plain"),
    ],
)
def test_floats_of_32_and_16_bits_are_rewritten(
    tmp_path: Path, kind: str, name: str, shape: tuple[int, ...], form: str
) -> None:
    def laid(values: Floats) -> npt.NDArray[Any]:
        formed = {"transposed": values.T, "plus-one": values + 1}.get(form, values)
        return np.ascontiguousarray(formed).astype(kind)

    stored, tuned = (spread_weights(shape, seed) for seed in (1, 2))
    layout = write_graph(tmp_path, {"x": laid(stored), "other": laid(spread_weights(shape, 3))})
    _same_bytes(layout, {name: stored}, tmp_path / "same")
    (tmp_path / "tuned").mkdir()
    report = graft(layout, {name: stored}, {name: tuned}, tmp_path / "tuned")
    assert report.changed_files == ("graph.ort",)
    file = OrtFile.read(tmp_path / "tuned" / "graph.ort")
    result = file.array("x")
    assert result.dtype == np.dtype(kind) and np.array_equal(result, laid(tuned))
    assert np.array_equal(file.array("other"), laid(spread_weights(shape, 3)))


def test_what_is_stored_otherwise_is_listed_and_trace_is_named(tmp_path: Path) -> None:
    """A scheme that is not known holds the weights, and cannot be written."""
    stored = spread_weights((24, 40))
    parts = quantized_parts(stored, "u1", 1, symmetric=False)
    renamed = {"levels": parts["w_quantized"], "steps": parts["w_scale"]}
    layout = write_graph(tmp_path, renamed)
    (tmp_path / "out").mkdir()
    with pytest.raises(ProblemsError, match="1 of 1") as caught:
        graft(layout, {"m.weight": stored}, {"m.weight": stored * 2}, tmp_path / "out")
    assert caught.value.problems == ("m.weight",)
    assert "--method trace" in (caught.value.hint or "")


def _same_bytes(layout: RuntimeLayout, base: dict[str, Floats], out: Path) -> None:
    out.mkdir()
    report = graft(layout, base, base, out)
    assert (report.matrices, report.changed_files) == (1, ())
    if any(item.dtype in ("u1", "i1") for item in OrtFile.read(out / "graph.ort").initializers):
        # Through the quantizer as well: a change below the precision of floats.
        nudged = {name: np.nextafter(value, np.float32(np.inf)) for name, value in base.items()}
        graft(layout, base, nudged, out)
    assert (out / "graph.ort").read_bytes() == (layout.folder / "graph.ort").read_bytes()

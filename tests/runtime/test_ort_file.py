"""Reading the runtime's graph files; other files are refused with a plain error."""

from pathlib import Path

import numpy as np
import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.registry.wheel import WheelAssets
from moonshine_tune.runtime.layout import read_layout
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.quantized import quantized_tensors

_ENCODER = "encoder_model.ort"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ORT",
        b"\x08\x03ir_version",
        b"<html>404 Not Found</html>",
        b"\x10\x00\x00\x00ORTM",
        b"\xff\xff\xff\x7fORTM" + bytes(200),
        b"\x10\x00\x00\x00ORTM" + bytes(range(256)) * 8,
    ],
    ids=["empty", "3 bytes", "onnx", "a web page", "head only", "wild offset", "noise"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / _ENCODER
    path.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        OrtFile.read(path)
    assert caught.value.where == str(path)
    assert caught.value.hint


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such model file"):
        OrtFile.read(tmp_path / _ENCODER)


# --- the real files


@pytest.mark.real_model
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
def test_a_file_that_is_cut_off_is_refused(
    wheel_assets: WheelAssets, tmp_path: Path, share: float
) -> None:
    """As an interrupted copy leaves it."""
    data = (wheel_assets.runtime_dir / _ENCODER).read_bytes()
    path = tmp_path / _ENCODER
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(RequestError) as caught:
        OrtFile.read(path)
    assert caught.value.where == str(path)


@pytest.fixture(scope="module")
def encoder(wheel_assets: WheelAssets) -> OrtFile:
    return OrtFile.read(wheel_assets.runtime_dir / _ENCODER)


@pytest.mark.real_model
def test_tensors_and_nodes_are_found(encoder: OrtFile) -> None:
    """tiny's encoder: 6 layers of 4 + 2 matrices, each with a scale and a zero point."""
    matrices = list(quantized_tensors(encoder))
    assert len(matrices) == 36
    assert {tensor.axis for tensor in matrices} == {None}
    assert {tensor.values.shape for tensor in matrices} == {(288, 288), (288, 1152), (1152, 288)}
    assert any(node.name.startswith("/layers.3/self_attn/k_proj/") for node in encoder.nodes)
    for item in encoder.initializers:
        assert item.offset + item.size <= len(encoder.data)
        assert int(np.prod(item.shape)) * np.dtype(item.dtype).itemsize == item.size


@pytest.mark.real_model
def test_a_patch_changes_its_bytes_and_nothing_else(encoder: OrtFile) -> None:
    tensor = next(iter(quantized_tensors(encoder)))
    wanted = bytes(tensor.values.size)
    data = encoder.patched({tensor.values.offset: wanted})
    start, end = tensor.values.offset, tensor.values.offset + tensor.values.size
    assert data[start:end] == wanted
    assert data[:start] + data[end:] == encoder.data[:start] + encoder.data[end:]
    assert not OrtFile(data, encoder.path).array(tensor.values).any()
    assert encoder.array(tensor.values).any()


@pytest.mark.real_model
@pytest.mark.parametrize("offset", [-1, 10**9])
def test_a_patch_outside_the_file_is_refused(encoder: OrtFile, offset: int) -> None:
    with pytest.raises(ValueError, match="outside the file"):
        encoder.patched({offset: b"12"})


@pytest.mark.real_model
def test_unchanged_values_give_the_same_bytes(encoder: OrtFile) -> None:
    for tensor in quantized_tensors(encoder):
        changes = tensor.requantize(tensor.dequantize(encoder), encoder)
        assert encoder.patched(changes) == encoder.data, tensor.name


@pytest.mark.real_model
def test_a_folder_that_lacks_a_file_is_refused(wheel_assets: WheelAssets, tmp_path: Path) -> None:
    layout = read_layout(wheel_assets.runtime_dir)
    assert layout.family == "v1"
    for name in layout.files[:-1]:
        (tmp_path / name).symlink_to(wheel_assets.runtime_dir / name)
    with pytest.raises(RequestError, match=r"tokenizer\.bin missing"):
        read_layout(tmp_path)

"""Adapter files: the same bytes as the full export, on any base that they are made for, or none."""

import hashlib
import json
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.stored_graphs import quantized_parts, spread_weights, write_graph

from moonshine_tune.export.adapter_file import adapter_file
from moonshine_tune.export.graft import graft
from moonshine_tune.runs.records import BaseModelRecord, ExportRecord
from moonshine_tune.runtime import apply_adapter as standalone
from moonshine_tune.runtime.apply_adapter import AdapterError, apply_adapter, read_adapter
from moonshine_tune.runtime.layout import RuntimeLayout
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.quantized import quantized_tensors, with_channel_scales

Answer = tuple[int, dict[str, Any]]
_RECORD = ExportRecord(method="graft", base=BaseModelRecord(name="tiny"))
_SHAPE = (24, 9)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def _base(path: Path, dtype: str = "u1", axis: int | None = None, **scheme: Any) -> RuntimeLayout:
    weights = spread_weights(_SHAPE)
    parts = quantized_parts(weights, dtype, axis, **({"symmetric": False} | scheme))
    layout = write_graph(_folder(path), parts | {"norm": spread_weights((40,), seed=5)})
    (path / "tokenizer.bin").write_bytes(b"\x01a")
    return RuntimeLayout(path, "v1", (*layout.files, "tokenizer.bin"))


def _exported(base: RuntimeLayout, out: Path) -> Path:
    """A graft of a matrix that changed a little, and in one row a lot, and of a vector."""
    file = OrtFile.read(base.folder / "graph.ort")
    before = {
        "w": next(quantized_tensors(file)).dequantize(file),
        "norm": file.array("norm").astype(np.float32),
    }
    after = {"w": before["w"] * 1.01, "norm": before["norm"] + 0.1}
    after["w"][3] += 2.0
    graft(base, before, after, _folder(out))
    return out


def _applied(content: bytes, base: RuntimeLayout, out: Path) -> Path:
    apply_adapter(content, base.folder, _folder(out))
    return out


def _assert_same(first: Path, second: Path) -> None:
    names = sorted(item.name for item in first.iterdir())
    assert names == sorted(item.name for item in second.iterdir())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize(
    ("dtype", "axis", "scheme"),
    [
        ("u1", None, {}),
        ("u1", 1, {}),
        ("u1", 0, {}),
        ("u1", 1, {"scale_type": "f2"}),
        ("i1", None, {"symmetric": True}),
        ("i1", 1, {}),
    ],
)
def test_an_applied_adapter_is_the_full_export(
    tmp_path: Path, dtype: str, axis: int | None, scheme: dict[str, Any]
) -> None:
    base = _base(tmp_path / "base", dtype, axis, **scheme)
    exported = _exported(base, tmp_path / "exported")
    content = adapter_file(base, exported, _RECORD)
    assert content == adapter_file(base, exported, _RECORD)
    _assert_same(exported, _applied(content, base, tmp_path / "applied"))


def test_scales_that_grew_are_the_same_too(tmp_path: Path) -> None:
    base = _base(tmp_path / "base")
    wider = OrtFile.read(base.folder / "graph.ort")
    wider = with_channel_scales(wider, quantized_tensors(wider))
    tensor = next(quantized_tensors(wider))
    patched = wider.copy()
    patched.write(tensor.requantize(1.1 * tensor.dequantize(wider), wider))
    exported = _folder(tmp_path / "exported")
    (exported / "graph.ort").write_bytes(patched.data)
    (exported / "tokenizer.bin").write_bytes(b"\x01a")
    content = adapter_file(base, exported, _RECORD)
    applied = _applied(content, base, tmp_path / "applied")
    _assert_same(exported, applied)
    assert (applied / "graph.ort").stat().st_size > (base.folder / "graph.ort").stat().st_size


def test_a_small_change_takes_a_few_bits_a_weight(tmp_path: Path) -> None:
    weights = spread_weights((400, 300))
    parts = quantized_parts(weights, "u1", None, symmetric=False)
    base = write_graph(_folder(tmp_path / "base"), parts)
    file = OrtFile.read(base.folder / "graph.ort")
    before = next(quantized_tensors(file)).dequantize(file)
    noise = np.random.default_rng(0).standard_normal(before.shape).astype(np.float32)
    step = float(next(quantized_tensors(file)).step(file).reshape(()))
    graft(base, {"w": before}, {"w": before + 0.1 * step * noise}, _folder(tmp_path / "out"))
    content = adapter_file(base, tmp_path / "out", _RECORD)
    assert len(content) < weights.size / 8


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("axis", [None, 1, 0])
def test_evened_out_inputs_take_no_more(tmp_path: Path, axis: int | None, offset: int) -> None:
    shape = (300, 400) if axis == 0 else (400, 300)
    weights, gains = spread_weights(shape), spread_weights((400,), seed=5)
    scheme = quantized_parts(weights, "u1", axis, symmetric=False)
    parts = {"norm": gains, "other": gains[::-1].copy()}
    base = write_graph(_folder(tmp_path / "base"), scheme | parts)
    file = OrtFile.read(base.folder / "graph.ort")
    tensor = next(quantized_tensors(file))
    columns = np.exp(np.random.default_rng(0).uniform(-1, 1, 400)).astype(np.float32)
    spread = columns if axis == 0 else columns[:, None]
    smoothed = {
        "norm": (gains + offset) / columns - offset,
        "other": parts["other"] / columns[::-1],
    }
    patched = file.copy()
    patched.write(tensor.requantize(tensor.dequantize(file) * spread, file))
    for name, values in smoothed.items():
        raw = np.asarray(values, "<f4").tobytes()
        patched.write({patched.by_name[name].offset: raw})
    (_folder(tmp_path / "out") / "graph.ort").write_bytes(patched.data)
    content = adapter_file(base, tmp_path / "out", _RECORD)
    (entry,) = read_adapter(content)[0]["files"]["graph.ort"]["tensors"]
    assert entry["gain"][0] == file.by_name["norm"].offset
    assert entry["gain_offset"] == offset
    _assert_same(tmp_path / "out", _applied(content, base, tmp_path / "applied"))
    # Both gains are other bytes, and of the levels those on the rounding of two scales.
    assert len(content) - 2 * 4 * 400 < weights.size / 8


def test_files_of_the_first_version_are_read(tmp_path: Path) -> None:
    base = _base(tmp_path / "base")
    exported = _exported(base, tmp_path / "exported")
    content = adapter_file(base, exported, _RECORD).replace(b'"version":2', b'"version":1')
    content = content[:-32] + hashlib.sha256(content[:-32]).digest()
    _assert_same(exported, _applied(content, base, tmp_path / "applied"))


def test_the_module_runs_alone_with_numpy(tmp_path: Path) -> None:
    base = _base(tmp_path / "base")
    exported = _exported(base, tmp_path / "exported")
    (tmp_path / "a.adapter").write_bytes(adapter_file(base, exported, _RECORD))
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], "
        "run_name='__main__'); print({'torch', 'moonshine_tune', 'onnxruntime'} & set(sys.modules))"
    )
    words = [standalone.__file__, "a.adapter", "base", "applied"]
    answer = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path, env={}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert answer.stdout.strip() == "set()"
    _assert_same(exported, tmp_path / "applied")


# --- files of unknown origin


def _signed(header: dict[str, Any], blobs: bytes) -> bytes:
    text = json.dumps(header).encode()
    content = standalone.MAGIC + len(text).to_bytes(8, "little") + text + blobs
    return content + hashlib.sha256(content).digest()


@pytest.fixture
def parts(tmp_path: Path) -> tuple[RuntimeLayout, dict[str, Any], bytes]:
    """A base, and header and blobs of an adapter of it."""
    base = _base(tmp_path / "base")
    content = adapter_file(base, _exported(base, tmp_path / "exported"), _RECORD)
    header, blobs = read_adapter(content)
    return base, header, bytes(blobs)


def _change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    *keys, last = (int(key) if key.isdigit() else key for key in path.split("/"))

    def change(header: dict[str, Any]) -> None:
        at: Any = header
        for key in keys:
            at = at[key]
        at[last] = value

    return change


_TENSOR = "files/graph.ort/tensors/0"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{_TENSOR}/at", -1),
        (f"{_TENSOR}/at", 10**12),
        (f"{_TENSOR}/shape", [10**9, 10**9]),
        (f"{_TENSOR}/shape", [-24, -9]),
        (f"{_TENSOR}/shape", [0, 9]),
        (f"{_TENSOR}/shape", "24"),
        (f"{_TENSOR}/dtype", "<f4"),
        (f"{_TENSOR}/dtype", "O"),
        (f"{_TENSOR}/scale", [0, 10**9, "<f4"]),
        (f"{_TENSOR}/scale", [0, 7, "<f4"]),
        (f"{_TENSOR}/new_scale", [-4, 1, "<f4"]),
        (f"{_TENSOR}/raw", 10**12),
        (f"{_TENSOR}/raw", 1),
        (f"{_TENSOR}/offset", 10**12),
        (f"{_TENSOR}/size", -5),
        ("files/graph.ort/edits/runs", 10**9),
        ("files/graph.ort/edits/runs", -1),
        ("files/graph.ort/tail/raw", 10**15),
        ("files/graph.ort/tensors", None),
        ("files/graph.ort/base_size", None),
        ("files", []),
        ("files", {"graph.ort": []}),
        ("files", {"../graph.ort": {}}),
        ("files", {"/etc/passwd": {}}),
        ("companions", [1]),
        (f"{_TENSOR}/gain", [0, 10**9, "<f4"]),
        ("version", 3),
    ],
)
def test_a_header_that_lies_is_refused(
    tmp_path: Path, parts: tuple[RuntimeLayout, dict[str, Any], bytes], path: str, value: Any
) -> None:
    base, header, blobs = parts
    _change(path, value)(header)
    with pytest.raises(AdapterError):
        apply_adapter(_signed(header, blobs), base.folder, _folder(tmp_path / "out"))
    assert not (tmp_path / "graph.ort").exists()


def test_bytes_at_random_are_an_adapter_error(
    tmp_path: Path, parts: tuple[RuntimeLayout, dict[str, Any], bytes]
) -> None:
    base, header, blobs = parts
    content = _signed(header, blobs)
    rng = random.Random(1)
    out = _folder(tmp_path / "out")
    for _ in range(300):
        changed = bytearray(content[:-32])
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(8, len(changed))] = rng.randrange(256)
        with pytest.raises(AdapterError, match="damaged"):
            apply_adapter(bytes(changed) + content[-32:], base.folder, out)
        signed = bytes(changed) + hashlib.sha256(changed).digest()
        try:
            apply_adapter(signed, base.folder, out)
        except AdapterError:
            continue
        # Only what is for people was changed: the files are right.
        assert (out / "graph.ort").read_bytes() == (
            tmp_path / "exported" / "graph.ort"
        ).read_bytes()
    for length in (0, 7, 47, len(content) // 2, len(content) - 1):
        with pytest.raises(AdapterError):
            apply_adapter(content[:length], base.folder, out)


def test_a_bomb_is_not_inflated(
    tmp_path: Path, parts: tuple[RuntimeLayout, dict[str, Any], bytes]
) -> None:
    base, header, blobs = parts
    bomb = zlib.compress(bytes(50_000_000))
    tail = {"offset": len(blobs), "size": len(bomb), "raw": 100}
    _change("files/graph.ort/tail", tail)(header)
    with pytest.raises(AdapterError, match="another length than it says"):
        apply_adapter(_signed(header, blobs + bomb), base.folder, _folder(tmp_path / "out"))


# --- the command


def test_apply_writes_the_folder_with_its_record(
    tmp_path: Path,
    parts: tuple[RuntimeLayout, dict[str, Any], bytes],
    ask: Callable[..., Answer],
) -> None:
    base, header, blobs = parts
    file, out = tmp_path / "anna.adapter", tmp_path / "out"
    file.write_bytes(_signed(header, blobs))
    code, answer = ask("apply", file, "--to", base.folder, "--out", out)
    assert (code, answer["base"]["name"]) == (0, "tiny")
    assert ExportRecord.read(out / "export.json").method == "graft"
    (out / "export.json").unlink()
    _assert_same(tmp_path / "exported", out)
    code, answer = ask("apply", file, "--to", base.folder, "--out", out)
    assert code == 2 and "exists already" in answer["error"]["message"]


def test_apply_names_a_base_that_differs_and_a_file_that_is_none(
    tmp_path: Path,
    parts: tuple[RuntimeLayout, dict[str, Any], bytes],
    ask: Callable[..., Answer],
) -> None:
    base, header, blobs = parts
    file, out = tmp_path / "anna.adapter", tmp_path / "out"
    file.write_bytes(_signed(header, blobs))
    graph = base.folder / "graph.ort"
    graph.write_bytes(graph.read_bytes()[:-1] + b"?")
    code, answer = ask("apply", file, "--to", base.folder, "--out", out)
    assert (
        code == 2 and "graph.ort in the base folder is not the file" in answer["error"]["message"]
    )
    assert "tiny" in answer["error"]["hint"]
    code, answer = ask("apply", graph, "--to", base.folder, "--out", out)
    assert code == 2 and answer["error"]["message"] == "not an adapter file"
    code, answer = ask("apply", tmp_path / "gone", "--to", base.folder, "--out", out)
    assert code == 2 and "no such adapter file" in answer["error"]["message"]
    assert not out.exists()


def test_another_tokenizer_is_another_base(
    tmp_path: Path, parts: tuple[RuntimeLayout, dict[str, Any], bytes]
) -> None:
    base, header, blobs = parts
    (base.folder / "tokenizer.bin").write_bytes(b"\x01b")
    with pytest.raises(AdapterError, match=r"tokenizer\.bin in the base folder"):
        apply_adapter(_signed(header, blobs), base.folder, _folder(tmp_path / "out"))


def test_new_graphs_have_no_adapter_file(ask: Callable[..., Answer], tmp_path: Path) -> None:
    words = ("--checkpoint", tmp_path, "--method", "trace", "--adapter-only")
    code, answer = ask("export", *words, "--out", tmp_path / "a.adapter")
    assert code == 2 and "there is no adapter file of them" in answer["error"]["message"]

"""Adapter files: what an export changed in the runtime files of its base, in one small file.

`runtime/apply_adapter.py` describes the format and makes the exported files from it. It is small
because most levels of an adapted matrix are those of the base, rounded to its new scales. Where the
export evened out what the matrix reads, they are multiplied by what the normalization before it
lost.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moonshine_tune.core.files import sha256_of
from moonshine_tune.runs.records import ExportRecord
from moonshine_tune.runtime.apply_adapter import MAGIC, gain_ratio, predicted_levels
from moonshine_tune.runtime.layout import RuntimeLayout
from moonshine_tune.runtime.ort_file import Initializer, OrtFile
from moonshine_tune.runtime.quantized import QuantizedTensor, quantized_tensors

Bytes = npt.NDArray[np.uint8]
# The right gain explains the columns of a matrix to a thousandth, a wrong one to 0.04 (median).
_GAIN_AGREEMENT = 0.01
# Differences hardly repeat themselves: without a search for repetitions they take a twentieth less.
_STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE)
# Runs of changed bytes that are this close are one: a run takes 16 bytes.
_GAP = 16


def adapter_file(base: RuntimeLayout, exported: Path, record: ExportRecord) -> bytes:
    """The content of an adapter file.

    Args:
        base: the runtime files of the base.
        exported: folder of the graft into them.
        record: of the export, which the folder made from the file has as export.json.
    """
    blobs = _Blobs()
    files = {}
    for path in base.graphs:
        before, after = path.read_bytes(), (exported / path.name).read_bytes()
        entry = {
            "base_size": len(before),
            "base_sha256": hashlib.sha256(before).hexdigest(),
            "sha256": hashlib.sha256(after).hexdigest(),
        }
        files[path.name] = entry
        if before != after:
            old, new = OrtFile(before, path), OrtFile(after, exported / path.name)
            files[path.name] = entry | _changes(old, new, blobs)
    companions = {
        name: sha256_of(base.folder / name) for name in base.files if not name.endswith(".ort")
    }
    header = {"version": 2, "files": files, "companions": companions, "export": record.to_json()}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    content = b"".join([MAGIC, len(text).to_bytes(8, "little"), text, *blobs.parts])
    return content + hashlib.sha256(content).digest()


@dataclass
class _Blobs:
    """Compressed parts, and where they begin."""

    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, content: bytes) -> dict[str, int]:
        packed = min((_deflated(content, strategy) for strategy in _STRATEGIES), key=len)
        where = {"offset": self.size, "size": len(packed), "raw": len(content)}
        self.parts.append(packed)
        self.size += len(packed)
        return where


def _deflated(content: bytes, strategy: int) -> bytes:
    stream = zlib.compressobj(9, strategy=strategy)
    return stream.compress(content) + stream.flush()


def _changes(old: OrtFile, new: OrtFile, blobs: _Blobs) -> dict[str, Any]:
    before = np.frombuffer(old.data, np.uint8)
    after = np.frombuffer(new.data, np.uint8)
    differs = before != after[: len(before)]
    tensors, gains = [], list(_changed_gains(old, new))
    # A tensor is where it was; its scales may be at the end of the file.
    for stored, adapted in zip(quantized_tensors(old), quantized_tensors(new), strict=True):
        region = slice(stored.values.offset, stored.values.offset + stored.values.size)
        if differs[region].any():
            tensors.append(_tensor(stored, adapted, old, new, gains, blobs))
            differs[region] = False
    runs = list(_runs(np.flatnonzero(differs)))
    edits = np.array(runs, "<u8").tobytes()
    edits += b"".join(after[start : start + length].tobytes() for start, length in runs)
    return {
        "tail": blobs.add(after[len(before) :].tobytes()),
        "edits": blobs.add(edits) | {"runs": len(runs)},
        "tensors": tensors,
    }


def _runs(changed: npt.NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """Offset and length of each run of changed bytes."""
    if not changed.size:
        return
    breaks = np.flatnonzero(np.diff(changed) > _GAP) + 1
    for run in np.split(changed, breaks):
        yield int(run[0]), int(run[-1] - run[0] + 1)


@dataclass(frozen=True)
class _Gain:
    """A normalization's gain that the export changed: its file entries, and the ratio [in]."""

    entries: dict[str, Any]
    ratio: npt.NDArray[np.float32]


def _changed_gains(old: OrtFile, new: OrtFile) -> Iterator[_Gain]:
    """Float vectors that have other values now, as they are and as differences from one."""
    for before, after in zip(old.initializers, new.initializers, strict=True):
        if len(before.shape) != 1 or before.dtype not in ("<f4", "<f2"):
            continue
        values, adapted = old.array(before), new.array(after)
        if values.shape != adapted.shape or np.array_equal(values, adapted):
            continue
        for offset in (0, 1):
            ratio = gain_ratio(values, adapted, offset)
            if np.isfinite(ratio).all():
                entries = {"gain": _vector(before), "new_gain": _vector(after)}
                yield _Gain(entries | {"gain_offset": offset}, ratio)


def _gain_before(
    stored: QuantizedTensor,
    adapted: QuantizedTensor,
    old: OrtFile,
    new: OrtFile,
    gains: Iterable[_Gain],
    axis: int,
) -> _Gain | None:
    """The gain whose change is that of the inputs of a matrix; the file does not name it.

    Args:
        axis: of its outputs.
    """
    fitting = [gain for gain in gains if len(gain.ratio) == stored.values.shape[1 - axis]]
    if not fitting:
        return None
    before, after = stored.dequantize(old), adapted.dequantize(new)
    size = np.square(before).sum(axis=axis)
    explained = (before * after).sum(axis=axis) / np.where(size == 0, 1, size)
    errors = [float(np.median(np.abs(explained / gain.ratio - 1))) for gain in fitting]
    best = int(np.argmin(errors))
    return fitting[best] if errors[best] < _GAIN_AGREEMENT else None


def _tensor(
    stored: QuantizedTensor,
    adapted: QuantizedTensor,
    old: OrtFile,
    new: OrtFile,
    gains: Iterable[_Gain],
    blobs: _Blobs,
) -> dict[str, Any]:
    values = stored.values
    rows = values.shape[0]
    shape = (rows, values.size // rows)
    entry: dict[str, Any] = {"at": values.offset, "shape": list(shape), "dtype": values.dtype}
    before = old.array(values).reshape(shape)
    predicted = before.view(np.uint8)
    if not stored.adds_float and len(values.shape) == 2:
        axis = 1 if adapted.axis is None else adapted.axis
        items = {
            "scale": (old, stored.scale),
            "zero": (old, stored.zero_point),
            "new_scale": (new, adapted.scale),
            "new_zero": (new, adapted.zero_point),
        }
        scale, zero, new_scale, new_zero = (
            file.array(item).reshape(-1) for file, item in items.values()
        )
        gain = _gain_before(stored, adapted, old, new, gains, axis)
        ratio = None if gain is None else gain.ratio
        predicted = predicted_levels(before, axis, scale, zero, new_scale, new_zero, ratio)
        where = {key: _vector(item) for key, (_, item) in items.items()}
        entry |= where | {"axis": axis} | (gain.entries if gain else {})
    steps = new.array(values).reshape(shape).view(np.uint8) - predicted
    return entry | blobs.add(_packed(steps.reshape(-1)))


def _vector(item: Initializer) -> list[Any]:
    return [item.offset, item.size // np.dtype(item.dtype).itemsize, item.dtype]


def _packed(steps: Bytes) -> bytes:
    """Two bits for each difference of a level, and a byte more for each that is not -1, 0 or 1."""
    codes = steps + np.uint8(1)
    escapes = codes > 2
    codes[escapes] = 3
    codes = np.concatenate([codes, np.ones(-len(codes) % 4, np.uint8)]).reshape(-1, 4)
    packed = codes[:, 0] | codes[:, 1] << 2 | codes[:, 2] << 4 | codes[:, 3] << 6
    return packed.tobytes() + steps[escapes].tobytes()

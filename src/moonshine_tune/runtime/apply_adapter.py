"""Apply an adapter file to the runtime files of its base: `python apply_adapter.py FILE BASE OUT`.

This file needs numpy and nothing of its package, so that an app can take it or port it. All numbers
are little endian. An adapter file is

    b"MTADAPT1" · u64 length of the header · header (JSON) · blobs · SHA-256 of all of it before

and for each changed graph file the header has its size and SHA-256 before and after, and blobs
(zlib streams at an `offset` after the header, of `size` bytes, `raw` bytes when inflated):

- `tail`: bytes that are appended to the file;
- `edits`: `runs` pairs of u64 (offset, length), then the bytes to write there, one run after
  the other;
- `tensors`: 8-bit levels at `at`, of `shape`. A level q of the base is predicted as
  p = round_half_even(f32(q − zero) · f32(scale / new scale) · f32(gain / new gain)) + new zero,
  each product rounded to f32. `scale` and `zero` are vectors along `axis` in the base, `new_scale`
  and `new_zero` in the new file after its edits, each as [offset, count, numpy type], of one value
  or one for each index. The same of the other axis are `gain` and `new_gain`, of the normalization
  before the matrix; to both, `gain_offset` is added in f64. Without them that factor is left out.
  The blob has two bits for each level, the lowest first: 0, 1, 2 for a difference of −1, 0, 1, and
  3 for one that follows after them all, as a byte. A level is p plus its difference, modulo 256.

Version 1 of the header has no gains.
"""

import hashlib
import json
import shutil
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

MAGIC, MAX_HEADER = b"MTADAPT1", 1 << 24
COMPANIONS = ("tokenizer.bin", "tokens.txt", "streaming_config.json")
_TYPES = {"u1": 1, "i1": 1, "<f2": 2, "<f4": 4}
_BYTES = np.arange(256, dtype=np.uint8)
_CODES = np.stack([_BYTES >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
_STEPS = np.array([255, 0, 1, 0], np.uint8)[_CODES].reshape(-1).view(np.uint32)
_HAS_ESCAPE = (_CODES == 3).any(axis=1)


class AdapterError(ValueError):
    """An adapter file that is damaged, or does not belong to these runtime files."""


def read_adapter(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header of an adapter file, and its blobs."""
    if data[:8] != MAGIC or len(data) < 48:
        raise AdapterError("not an adapter file")
    if hashlib.sha256(memoryview(data)[:-32]).digest() != data[-32:]:
        raise AdapterError("the adapter file is damaged or cut off")
    length = int.from_bytes(data[8:16], "little")
    if length > min(MAX_HEADER, len(data) - 48):
        raise AdapterError("the header of the adapter file is too long")
    try:
        header = json.loads(data[16 : 16 + length])
    except (ValueError, RecursionError) as error:
        raise AdapterError("the header of the adapter file is not JSON") from error
    if not isinstance(header, dict) or header.get("version") not in (1, 2):
        raise AdapterError("an adapter file of another version: use a newer apply_adapter.py")
    return header, memoryview(data)[16 + length : -32]


def apply_adapter(data: bytes, base: Path, out: Path) -> dict[str, str]:
    """Fill the folder `out` (existing, empty) with the adapted files; returns their SHA-256.

    Raises:
        AdapterError: a damaged file, or another base; says which file differs.
    """
    header, blobs = read_adapter(data)
    try:
        companions = dict(header.get("companions", {}))
        files = [(str(name), dict(entry)) for name, entry in dict(header["files"]).items()]
        digests = {name: _adapt(name, entry, blobs, base, out) for name, entry in files}
    except AdapterError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise AdapterError(f"the header of the adapter file is wrong: {error!r}") from error
    if not digests:
        raise AdapterError("the adapter file names no graph files")
    for name in COMPANIONS:
        if (base / name).is_file():
            content = (base / name).read_bytes()
            if companions.get(name) not in (None, hashlib.sha256(content).hexdigest()):
                raise AdapterError(f"{name} in the base folder is not that of its base")
            (out / name).write_bytes(content)
    return digests


def _adapt(name: str, entry: Mapping[str, Any], blobs: memoryview, base: Path, out: Path) -> str:
    if not name.endswith(".ort") or not name.replace("_", "").replace(".", "").isalnum():
        raise AdapterError(f"{name!r} is not the name of a graph file")
    path = base / name
    if not path.is_file():
        raise AdapterError(f"{name} is missing in the base folder")
    if path.stat().st_size != entry["base_size"] or (
        hashlib.sha256(before := path.read_bytes()).hexdigest() != entry["base_sha256"]
    ):
        raise AdapterError(f"{name} in the base folder is not the file this adapter was made for")
    if "tail" not in entry:
        shutil.copyfile(path, out / name)
        return _checked(name, entry["base_sha256"], entry)
    new = bytearray(before)
    new += _inflate(blobs, entry["tail"], len(before))
    _write_runs(new, _inflate(blobs, entry["edits"], 2 * len(new)), entry["edits"]["runs"])
    shapes = [tensor["shape"] for tensor in entry["tensors"]]
    if sum(abs(int(rows) * int(columns)) for rows, columns in shapes) > len(before):
        raise AdapterError("the tensors of the adapter file are larger than the file")
    for tensor in entry["tensors"]:
        _write_levels(new, before, tensor, blobs)
    digest = _checked(name, hashlib.sha256(new).hexdigest(), entry)
    (out / name).write_bytes(new)
    return digest


def _checked(name: str, digest: str, entry: Mapping[str, Any]) -> str:
    if digest != entry["sha256"]:
        raise AdapterError(f"{name} has another checksum than its export: the adapter is damaged")
    return digest


def _inflate(blobs: memoryview, blob: Mapping[str, Any], most: int) -> bytes:
    start, size, raw = (int(blob[key]) for key in ("offset", "size", "raw"))
    if not (0 <= start <= start + size <= len(blobs) and 0 <= raw <= most):
        raise AdapterError("a part of the adapter file is outside it, or too long")
    try:
        content = zlib.decompressobj().decompress(blobs[start : start + size], raw + 1)
    except zlib.error as error:
        raise AdapterError("a part of the adapter file cannot be inflated") from error
    if len(content) != raw:
        raise AdapterError("a part of the adapter file has another length than it says")
    return content


def _write_runs(new: bytearray, content: bytes, runs: int) -> None:
    position = 16 * runs
    for start, length in np.frombuffer(_part(content, 0, position), "<u8").reshape(-1, 2).tolist():
        _part(new, start, length)
        new[start : start + length] = _part(content, position, length)
        position += length


def _write_levels(
    new: bytearray, before: bytes, tensor: Mapping[str, Any], blobs: memoryview
) -> None:
    rows, columns = (int(count) for count in tensor["shape"])
    at, count = int(tensor["at"]), rows * columns
    if min(rows, columns) < 1 or tensor["dtype"] not in ("u1", "i1"):
        raise AdapterError("a tensor of the adapter file has no levels")
    levels = _vector(before, [at, count, tensor["dtype"]]).reshape(rows, columns)
    grids = []
    if "scale" in tensor:
        grids = [_vector(before, tensor[key]) for key in ("scale", "zero")]
        grids += [_vector(new, tensor[key]) for key in ("new_scale", "new_zero")]
    if "gain" in tensor:
        gains = _vector(before, tensor["gain"]), _vector(new, tensor["new_gain"])
        grids.append(gain_ratio(*gains, tensor["gain_offset"]))
    predicted = predicted_levels(levels, tensor["axis"], *grids) if grids else levels
    packed = -(-count // 4)
    content = _inflate(blobs, tensor, packed + count)
    codes = np.frombuffer(content, np.uint8, packed)
    steps = _STEPS[codes].view(np.uint8)[:count]
    escapes = _escapes(codes)
    steps[escapes] = np.frombuffer(_part(content, packed, len(escapes)), np.uint8)
    steps += predicted.reshape(-1).view(np.uint8)
    new[at : at + count] = steps.tobytes()


def gain_ratio(gain: Any, new_gain: Any, offset: float) -> Any:
    """What a smoothed normalization multiplies each input of its matrices by, f32."""
    with np.errstate(all="ignore"):
        ratio = (gain.astype(np.float64) + offset) / (new_gain.astype(np.float64) + offset)
    return ratio.astype(np.float32)


def predicted_levels(
    levels: Any,
    axis: int,
    scale: Any,
    zero: Any,
    new_scale: Any,
    new_zero: Any,
    gains: Any = None,
) -> Any:
    """Levels of the base on the new scales of the indices of an axis, as bytes.

    Args:
        gains: of `gain_ratio`, along the other axis.
    """
    spread = (-1, 1) if axis == 0 else (1, -1)
    scale, zero, new_scale, new_zero = (
        value.reshape(spread) for value in (scale, zero, new_scale, new_zero)
    )
    with np.errstate(all="ignore"):
        ratio = scale.astype(np.float64) / new_scale.astype(np.float64)
        steps = np.subtract(levels, zero, dtype=np.float32)
        steps *= ratio.astype(np.float32)
        if gains is not None:
            steps *= gains.reshape(spread[::-1])
        predicted = np.rint(steps, out=steps).astype(np.int16)
        predicted += new_zero
    return predicted.astype(np.uint8)


def _escapes(codes: Any) -> Any:
    """Indices of the codes that are 3, in order; four codes are in a byte."""
    at = np.flatnonzero(_HAS_ESCAPE[codes])
    rows, columns = np.nonzero(_CODES[codes[at]] == 3)
    return at[rows] * 4 + columns


def _vector(content: bytes | bytearray, where: Any) -> Any:
    offset, count, kind = where
    return np.frombuffer(_part(content, offset, count * _TYPES[kind]), kind)


def _part(content: bytes | bytearray, start: int, length: int) -> bytes:
    if not 0 <= start <= start + length <= len(content):
        raise AdapterError("the adapter file points outside of a file")
    return bytes(memoryview(content)[start : start + length])


if __name__ == "__main__":
    _adapter, _base, _out = map(Path, sys.argv[1:])
    _out.mkdir(parents=True)
    apply_adapter(_adapter.read_bytes(), _base, _out)

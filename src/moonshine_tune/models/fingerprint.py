"""The identity of a checkpoint's weights: the content of its tensors, in whatever files they are.

Reading a gigabyte takes seconds, so results are kept in the cache for as long as the files' size,
times and inode stay the same.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import read_json, sha256_of, write_json_atomic
from moonshine_tune.core.hardware import cache_root, make_cache_folder
from moonshine_tune.models.files import weight_files

# Most bytes of a safetensors header, as its reference implementation has it.
_LONGEST_HEADER = 100_000_000
_PIECE = 1 << 22
# A file that changes within one tick of the file system's clock keeps its times.
_SETTLED_NS = 2_000_000_000
_TIED = ("model.decoder.embed_tokens.weight", "proj_out.weight")
_PRECISIONS = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2),
}  # fmt: skip
# Unsigned integers of the same size, and the bits of the exponent.
_EXPONENTS: dict[str, tuple[str, np.unsignedinteger[Any]]] = {
    "F64": ("<u8", np.uint64(0x7FF0_0000_0000_0000)), "F32": ("<u4", np.uint32(0x7F80_0000)),
    "F16": ("<u2", np.uint16(0x7C00)), "BF16": ("<u2", np.uint16(0x7F80)),
}  # fmt: skip
# Formats in which a value is nothing without a scale.
_QUANTIZED = ("I8", "U8", "F8_", "F6_", "F4")

Match = Literal["same", "rounded", "other", "unknown"]


@dataclass(frozen=True)
class Fingerprint:
    """Hashes of a checkpoint's weights.

    Attributes:
        sha256: of the files; records of earlier versions have only this one.
        content_sha256: of names, shapes, number formats and values, in any files.
        sign_sha256: of names, shapes and signs: the same after rounding to another number format.
        precision: number formats, such as `float32`.
    """

    sha256: str
    content_sha256: str
    sign_sha256: str
    precision: str


def compare_weights(recorded: Mapping[str, Any], own: Mapping[str, Any]) -> Match:
    """Whether a recorded identity is that of the weights `own`; both as `Fingerprint`'s fields.

    `rounded`: the same weights in another number format. `unknown`: nothing is recorded.
    """
    pairs = [(recorded.get(key), own.get(key)) for key in ("content_sha256", "sha256")]
    if any(before is not None and before == now for before, now in pairs):
        return "same"
    if all(before is None or now is None for before, now in pairs):
        return "unknown"
    is_rounded = (
        recorded.get("sign_sha256") is not None
        and recorded["sign_sha256"] == own.get("sign_sha256")
        and recorded.get("precision") != own.get("precision")
    )
    return "rounded" if is_rounded else "other"


def short_hash(identity: Mapping[str, Any]) -> str:
    """Twelve digits for messages: of the content, or of the files in earlier records."""
    return str(identity.get("content_sha256") or identity.get("sha256"))[:12]


def fingerprint_of(folder: Path) -> Fingerprint:
    """The fingerprint of a checkpoint folder's own weights.

    Raises:
        RequestError: no weights, files that are not safetensors, quantized weights, or values
            that are not finite.
    """
    paths = weight_files(folder).paths
    stats = [path.stat() for path in paths]
    mark = [
        [path.name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino]
        for path, s in zip(paths, stats, strict=True)
    ]
    label = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    store = cache_root() / "fingerprints" / f"{label[:32]}.json"
    with suppress(RequestError, TypeError, KeyError):
        known = read_json(store)
        if known["mark"] == mark:
            return Fingerprint(**{key: str(value) for key, value in known["weights"].items()})
    now = time.time_ns()
    result = _measure(paths)
    if all(now - max(s.st_mtime_ns, s.st_ctime_ns) > _SETTLED_NS for s in stats):
        # A cache that cannot be written costs time at the next start, and nothing else.
        with suppress(OSError, RequestError):
            make_cache_folder(store.parent)
            write_json_atomic(store, {"mark": mark, "weights": asdict(result)})
    return result


def _measure(paths: tuple[Path, ...]) -> Fingerprint:
    contents: dict[str, str] = {}
    signs: dict[str, str] = {}
    precisions: set[str] = set()
    for path in paths:
        for name, dtype, shape, pieces in _tensors(path):
            content, sign = (
                hashlib.sha256(f"{dtype} {shape}".encode()),
                hashlib.sha256(shape.encode()),
            )
            precision, size = _PRECISIONS.get(dtype, ("", 0))
            if dtype.startswith(_QUANTIZED):
                raise RequestError(
                    f"{name} is in {dtype}: these weights are quantized, and their scales are "
                    "not in the file",
                    where=path,
                    hint="name the checkpoint that it was quantized from",
                )
            for piece in pieces:
                content.update(piece)
                if size and not _is_finite(piece, dtype):
                    raise RequestError(
                        f"{name} has values that are not finite (NaN or infinite): the weights "
                        "are damaged, or were saved by a training that diverged",
                        where=path,
                        hint="fetch or copy the model again",
                    )
                # Little-endian: the sign is the highest bit of a number's last byte.
                values = np.frombuffer(piece, np.uint8)
                sign.update(np.packbits(values[size - 1 :: size] >> 7).tobytes() if size else piece)
            contents[name], signs[name] = content.hexdigest(), sign.hexdigest()
            precisions |= {precision} - {""}
    embedding, output_head = _TIED
    if output_head in contents and contents[output_head] == contents.get(embedding):
        # Some versions of transformers store a tied head a second time.
        del contents[output_head], signs[output_head]
    files = [sha256_of(path) for path in paths]
    return Fingerprint(
        sha256=files[0] if len(files) == 1 else "+".join(digest[:16] for digest in files),
        content_sha256=_of_all(contents),
        sign_sha256=_of_all(signs),
        precision="+".join(sorted(precisions)),
    )


def _is_finite(piece: bytes, dtype: str) -> bool:
    """Whether no number's exponent has all bits set, as those of NaN and infinity have."""
    code, exponent = _EXPONENTS[dtype]
    bits = np.frombuffer(piece[: len(piece) - len(piece) % exponent.itemsize], code)
    return not bool(((bits & exponent) == exponent).any())


def _of_all(hashes: dict[str, str]) -> str:
    lines = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


def _tensors(path: Path) -> Iterator[tuple[str, str, str, Iterator[bytes]]]:
    """Name, number format, shape as text and the bytes of each tensor of a safetensors file.

    The library itself gives no bytes without a framework, numpy has no bfloat16, and pages of a
    mapped file would count as memory of this process.
    https://github.com/huggingface/safetensors#format
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                start, end = map(int, entry["data_offsets"])
                file.seek(8 + length + start)
                shape = str(tuple(map(int, entry["shape"])))
                yield name, str(entry["dtype"]), shape, _pieces(file, end - start)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path | str, reason: str) -> RequestError:
    return RequestError(
        f"the checkpoint cannot be read: not a complete safetensors file ({reason})",
        where=path,
        hint="fetch or copy the model again",
    )


def _pieces(file: BinaryIO, count: int) -> Iterator[bytes]:
    """The next `count` bytes, of which only a piece is in memory at a time."""
    while count > 0:
        piece = file.read(min(count, _PIECE))
        if not piece:
            raise _damaged(file.name, "it is cut off")
        yield piece
        count -= len(piece)

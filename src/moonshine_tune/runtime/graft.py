"""Export by grafting: adapted matrices are written into a copy of the base model's runtime files.

Every weight of the runtime's graphs lies at a fixed offset, so an adapted model of the same shape
needs no tracing: the merged matrix is quantized in the scheme found in the file and written over
the old one. Which stored matrix belongs to which tensor is decided by content (the base
checkpoint's values, within half a quantization step, in either orientation), since names differ
between the families and are nobody's promise.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moonshine_tune.errors import ProblemsError
from moonshine_tune.files import sha256_of
from moonshine_tune.runtime.layout import RuntimeLayout
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.quantized import Floats, QuantizedTensor, quantized_tensors

# Rounding puts a value at most half a step away; the rest is room for 32-bit arithmetic.
_WITHIN_STEPS = 0.51
_PROBES = 257


@dataclass(frozen=True)
class GraftReport:
    """What was written.

    Attributes:
        matrices: adapted tensors found in the graphs.
        changed: of those, how many differ from the base and were written.
        changed_files: graph files that differ from the base runtime folder.
        worst_step_error: largest distance of a stored value from the merged weight, in
            quantization steps: 0.5 where values are rounded to the nearest step, up to 1 where
            they are dithered.
        sha256: hash of every file in the folder.
    """

    matrices: int
    changed: int
    changed_files: tuple[str, ...]
    worst_step_error: float
    sha256: dict[str, str]


def graft(
    layout: RuntimeLayout,
    base: Mapping[str, Floats],
    merged: Mapping[str, Floats],
    out: Path,
) -> GraftReport:
    """Fill the folder `out` (existing, empty) with the base runtime files, adapted.

    Args:
        base: tensors of the base checkpoint that the adapter touches, [out, in].
        merged: the same with the adapter's effect added.

    Raises:
        ProblemsError: tensors that no stored matrix matches; lists them.
    """
    found: set[str] = set()
    changed: set[str] = set()
    changed_files: list[str] = []
    worst = 0.0
    for name in layout.files:
        source = layout.folder / name
        shutil.copyfile(source, out / name)
        if not name.endswith(".ort"):
            continue
        file = OrtFile.read(source)
        changes: dict[int, bytes] = {}
        for tensor, key, transposed in _matches(file, base):
            found.add(key)
            if np.array_equal(base[key], merged[key]):
                continue
            old, wanted = base[key], merged[key]
            if transposed:
                old, wanted = old.T, np.ascontiguousarray(wanted.T)
            # A base that was rebuilt from these very files lies on their grid.
            dither = bool(np.all(np.abs(tensor.dequantize(file) - old) <= 1e-3 * tensor.step(file)))
            changes |= tensor.requantize(wanted, file, dither=dither)
            changed.add(key)
        if changes:
            patched = OrtFile(file.patched(changes), source)
            worst = max(worst, _worst_error(patched, file, base, merged))
            (out / name).write_bytes(patched.data)
            changed_files.append(name)
    missing = sorted(set(base) - found)
    if missing:
        raise ProblemsError(
            f"{len(missing)} of {len(base)} adapted matrices are not in the runtime files of "
            f"{layout.folder}",
            missing,
            hint="these files belong to other base weights; name the right ones with "
            "--base-runtime, or export with: --method trace",
        )
    return GraftReport(
        matrices=len(found),
        changed=len(changed),
        changed_files=tuple(changed_files),
        worst_step_error=worst,
        sha256={name: sha256_of(out / name) for name in layout.files},
    )


def _matches(file: OrtFile, base: Mapping[str, Floats]) -> list[tuple[QuantizedTensor, str, bool]]:
    """Stored matrices with the base tensor that each holds, and whether it lies transposed."""
    by_shape: dict[tuple[int, int], list[str]] = {}
    for key, value in base.items():
        by_shape.setdefault((value.shape[0], value.shape[1]), []).append(key)
    matches: list[tuple[QuantizedTensor, str, bool]] = []
    for tensor in quantized_tensors(file):
        rows, columns = tensor.values.shape
        straight, turned = by_shape.get((rows, columns), []), by_shape.get((columns, rows), [])
        if not straight and not turned:
            continue
        stored, step = tensor.dequantize(file), tensor.step(file)
        fitting = [(key, False) for key in straight if _holds(stored, base[key], step)]
        fitting += [(key, True) for key in turned if _holds(stored, base[key].T, step)]
        if len(fitting) > 1:
            raise ProblemsError(
                f"the matrix {tensor.name} fits several tensors",
                [key for key, _ in fitting],
                hint="tensors of the base model that are equal cannot be told apart",
            )
        matches.extend((tensor, key, transposed) for key, transposed in fitting)
    return matches


def _holds(stored: Floats, tensor: Floats, step: Floats) -> bool:
    """Whether `stored` is `tensor` up to rounding; a few probes settle most cases."""
    bound = _WITHIN_STEPS * step + 1e-7
    stride = max(stored.size // _PROBES, 1)
    rows, columns = np.unravel_index(np.arange(0, stored.size, stride), stored.shape)
    wide = np.broadcast_to(bound, stored.shape)
    if np.any(np.abs(stored[rows, columns] - tensor[rows, columns]) > wide[rows, columns]):
        return False
    return bool(np.all(np.abs(stored - tensor) <= bound))


def _worst_error(
    patched: OrtFile, file: OrtFile, base: Mapping[str, Floats], merged: Mapping[str, Floats]
) -> float:
    """Read the patched bytes back and compare them with what was meant, in steps."""
    stored = {tensor.values.offset: tensor for tensor in quantized_tensors(patched)}
    worst = 0.0
    for tensor, key, transposed in _matches(file, base):
        after = stored[tensor.values.offset]
        wanted = merged[key].T if transposed else merged[key]
        error = np.abs(after.dequantize(patched) - wanted) / after.step(patched)
        worst = max(worst, float(error.max()))
    return worst

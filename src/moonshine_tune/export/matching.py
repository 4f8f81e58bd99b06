"""Which stored tensor of a graph holds which tensor of a checkpoint, decided by content.

Names differ between the families and are nobody's promise: streaming graphs call their matrices
`val_236_quantized`. The values do not lie: a stored tensor holds a checkpoint's tensor where every
value agrees within half a quantization step, as it lies, transposed, or with one added (the
streaming encoder's norms store gamma + 1).
"""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.quantized import (
    Floats,
    FloatTensor,
    QuantizedTensor,
    float_tensors,
    folded_step,
    quantized_tensors,
)

# Rounding puts a value at most half a step away; the rest is room for 32-bit arithmetic.
_WITHIN_STEPS = 0.51
_PROBES = 257
_BLOCK = 64
# Room for a value that went through 32 or 16 bits, as a share of its size.
_ROUNDING = {"<f4": 1e-6, "<f2": 1e-3}
# numpy lets go of the interpreter; more at once would hold too many tensors in memory.
MATRIX_THREADS = min(os.cpu_count() or 1, 4)
TIED = frozenset({"model.decoder.embed_tokens.weight", "proj_out.weight"})
"""Names of one and the same matrix where a model's output head is tied to its embedding."""


@dataclass(frozen=True)
class Match:
    """A stored tensor and the checkpoint's tensor in it.

    `form` says how: "plain", "transposed" or "plus-one".
    """

    tensor: QuantizedTensor | FloatTensor
    key: str
    form: str

    def view(self, weights: Floats) -> Floats:
        """A checkpoint's tensor in the shape that it has in the file; copied only where it must."""
        return _formed(weights, self.form).reshape(self.tensor.values.shape)

    def to_file(self, weights: Floats) -> Floats:
        """A checkpoint's tensor in the layout of the file, in memory of its own."""
        view = self.view(weights)
        if view.flags.c_contiguous:
            return view.copy()
        laid = np.empty(view.shape, view.dtype)
        for rows in _blocks(len(view)):
            laid[rows] = view[rows]
        return laid

    def to_checkpoint(self, stored: Floats, shape: tuple[int, ...]) -> Floats:
        """A tensor of the file in the checkpoint's layout."""
        values = stored - np.float32(1) if self.form == "plus-one" else stored
        if self.form == "transposed":
            values = values.reshape(shape[::-1]).T
        return np.ascontiguousarray(values.reshape(shape))


def find_matches(
    file: OrtFile, wanted: Mapping[str, Floats], others: Mapping[str, Floats] | None = None
) -> list[Match]:
    """Stored tensors of a graph with the tensor of `wanted` that each holds.

    Args:
        wanted: tensors of a checkpoint by name, [out, in] where they are matrices.
        others: the checkpoint's other tensors: a stored tensor that fits one of them too cannot be
            told apart.

    Raises:
        ProblemsError: a stored tensor fits several tensors, of which one is wanted.
    """
    candidates = _Candidates({**(others or {}), **wanted})
    matches: list[Match] = []
    tensors = list(_stored(file, any(value.ndim != 2 for value in wanted.values())))
    with ThreadPoolExecutor(MATRIX_THREADS) as pool:
        found = list(pool.map(lambda tensor: candidates.fitting(tensor, file), tensors))
    for tensor, fitting in zip(tensors, found, strict=True):
        keys = {key for key, _ in fitting}
        if not keys & set(wanted):
            continue
        if len(keys) > 1 and not keys <= TIED:
            raise ProblemsError(
                f"the stored tensor {tensor.name} of {file.path.name} fits several tensors",
                sorted(keys),
                hint="tensors of the base model that are equal cannot be told apart",
            )
        key = min(keys & set(wanted))
        matches.append(Match(tensor, key, dict(fitting)[key]))
    return matches


def _stored(file: OrtFile, with_floats: bool) -> Iterator[QuantizedTensor | FloatTensor]:
    yield from quantized_tensors(file)
    for tensor in float_tensors(file):
        # Matrices may be floats as well: an export without quantization.
        if with_floats or _squeezed(tensor.values.shape)[1:]:
            yield tensor


class _Candidates:
    """Tensors by the shapes that they may have in a file."""

    def __init__(self, tensors: Mapping[str, Floats]) -> None:
        self._views: dict[tuple[int, ...], list[tuple[str, str, Floats]]] = {}
        for key, value in tensors.items():
            shape = _squeezed(value.shape)
            forms = {1: ("plain", "plus-one"), 2: ("plain", "transposed")}.get(len(shape), ())
            for form in forms or (("plain",) if len(shape) > 2 else ()):
                view = _formed(value.reshape(shape), form)
                self._views.setdefault(view.shape, []).append((key, form, view))

    def fitting(
        self, tensor: QuantizedTensor | FloatTensor, file: OrtFile
    ) -> list[tuple[str, str]]:
        """Keys and forms of the tensors that the stored one holds."""
        shape = _squeezed(tensor.values.shape)
        candidates = self._views.get(shape, [])
        if not candidates:
            return []
        # In floats that were 8-bit once, values are as far off as if they still were.
        step = folded_step(tensor.dequantize(file)) if isinstance(tensor, FloatTensor) else None
        values, bound = _sample(tensor, file, step)
        places = np.unravel_index(_places(tensor), shape)
        likely = [c for c in candidates if np.all(np.abs(values - c[2][places]) <= bound)]
        if not likely:
            return []
        stored, bounds = _whole(tensor, file, step)
        stored, bounds = stored.reshape(shape), bounds.reshape(shape)
        found: dict[str, str] = {}
        for key, form, view in likely:
            if key not in found and all(
                np.all(np.abs(stored[rows] - view[rows]) <= bounds[rows])
                for rows in _blocks(shape[0])
            ):
                found[key] = form
        return list(found.items())


def _places(tensor: QuantizedTensor | FloatTensor) -> npt.NDArray[np.intp]:
    """Where a few probes are taken: they settle most cases without reading the tensor."""
    size = int(np.prod(tensor.values.shape))
    return np.arange(0, size, max(size // _PROBES, 1))


def _sample(
    tensor: QuantizedTensor | FloatTensor, file: OrtFile, step: Floats | None
) -> tuple[Floats, Floats]:
    places = _places(tensor)
    if isinstance(tensor, FloatTensor):
        whole, bounds = _whole(tensor, file, step)
        return whole.reshape(-1)[places], bounds.reshape(-1)[places]
    values = tensor.values_at(file, places)
    steps = np.broadcast_to(tensor.step(file), tensor.values.shape).reshape(-1)[places]
    return values, _step_bound(values, steps, tensor)


def _whole(
    tensor: QuantizedTensor | FloatTensor, file: OrtFile, step: Floats | None
) -> tuple[Floats, Floats]:
    values = tensor.dequantize(file)
    if isinstance(tensor, FloatTensor):
        if step is not None:
            return values, np.broadcast_to(_WITHIN_STEPS * step + np.float32(1e-7), values.shape)
        return values, _float_bound(values, tensor.values.dtype)
    return values, np.broadcast_to(_step_bound(values, tensor.step(file), tensor), values.shape)


def _step_bound(values: Floats, steps: Floats, tensor: QuantizedTensor) -> Floats:
    bound = _WITHIN_STEPS * steps + np.float32(1e-7)
    if tensor.scale.dtype == "<f2":
        bound = bound + np.float32(_ROUNDING["<f2"]) * np.abs(values)
    return np.asarray(bound, np.float32)


def _float_bound(values: Floats, dtype: str) -> Floats:
    return np.asarray(_ROUNDING[dtype] * np.abs(values) + 1e-7, np.float32)


def _formed(weights: Floats, form: str) -> Floats:
    if form == "transposed":
        return weights.T
    return weights + np.float32(1) if form == "plus-one" else weights


def _blocks(rows: int) -> Iterator[slice]:
    """Rows in blocks: a transposed matrix is read a few cache lines at a time."""
    for start in range(0, rows, _BLOCK):
        yield slice(start, start + _BLOCK)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def is_constant(values: npt.NDArray[Any]) -> bool:
    """Whether all values are equal: such a tensor cannot be recognized by its content."""
    first = values.flat[0]
    # Most differ at once.
    return bool(np.all(values.flat[:_PROBES] == first) and np.all(values == first))

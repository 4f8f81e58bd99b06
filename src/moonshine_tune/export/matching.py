"""Match the stored tensors of a graph with the tensors of a checkpoint, by content.

Names differ between the families and may change: streaming graphs call their matrices
`val_236_quantized`. A stored tensor matches a checkpoint's tensor where every value agrees within
half a quantization step: unchanged, transposed, or with one added (the streaming encoder's norms
store gamma + 1).
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.core.parallel import thread_pool
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.quantized import (
    Floats,
    FloatTensor,
    QuantizedTensor,
    StoredTensor,
    float_tensors,
    folded_step,
    quantized_tensors,
)

# Rounding moves a value by at most half a step; the rest is tolerance for 32-bit arithmetic.
_WITHIN_STEPS = 0.51
_PROBES = 257
_BLOCK = 64
# Tolerance for a value that was stored in 32 or 16 bits, as a share of its size.
_FLOAT_TOLERANCE = {"<f4": 1e-6, "<f2": 1e-3}
# numpy releases the interpreter lock; more threads would hold too many tensors in memory.
MATRIX_THREADS = min(os.cpu_count() or 1, 4)
TIED = frozenset({"model.decoder.embed_tokens.weight", "proj_out.weight"})
"""Two names of one matrix where a model's output head is tied to its embedding."""


@dataclass(frozen=True)
class Match:
    """A stored tensor and the checkpoint's tensor that it holds.

    Attributes:
        form: how it is stored: "plain", "transposed" or "plus-one".
        is_new_grid: whether the scales will be new, other than those that the base was stored with.
    """

    tensor: StoredTensor
    key: str
    form: str
    is_new_grid: bool = False

    def view(self, weights: Floats) -> Floats:
        """A checkpoint's tensor in the shape that it has in the file; copied only if necessary."""
        return _formed(weights, self.form).reshape(self.tensor.values.shape)

    def to_file(self, weights: Floats) -> Floats:
        """A checkpoint's tensor in the layout of the file, in separate memory."""
        view = self.view(weights)
        if view.flags.c_contiguous:
            return view.copy()
        laid = np.empty(view.shape, view.dtype)
        for rows in _blocks(len(view)):
            laid[rows] = view[rows]
        return laid


def find_matches(
    file: OrtFile, wanted: Mapping[str, Floats], others: Mapping[str, Floats] | None = None
) -> list[Match]:
    """Stored tensors of a graph with the tensor of `wanted` that each holds.

    Args:
        wanted: tensors of a checkpoint by name, [out, in] where they are matrices.
        others: the checkpoint's other tensors: a stored tensor that matches one of them too is
            ambiguous.

    Raises:
        ProblemsError: a stored tensor matches several tensors, of which one is wanted.
    """
    candidates = _Candidates({**(others or {}), **wanted})
    matches: list[Match] = []
    tensors = list(_stored(file, any(value.ndim != 2 for value in wanted.values())))
    with thread_pool(MATRIX_THREADS) as pool:
        forms_of = list(pool.map(lambda tensor: candidates.matching(tensor, file), tensors))
    for tensor, forms in zip(tensors, forms_of, strict=True):
        keys = set(forms)
        if not keys & set(wanted):
            continue
        if len(keys) > 1 and not keys <= TIED:
            raise ProblemsError(
                f"the stored tensor {tensor.name} of {file.path.name} matches several tensors",
                sorted(keys),
                hint="equal tensors of the base model cannot be distinguished",
            )
        key = min(keys & set(wanted))
        matches.append(Match(tensor, key, forms[key]))
    return matches


def _stored(file: OrtFile, with_floats: bool) -> Iterator[StoredTensor]:
    yield from quantized_tensors(file)
    for tensor in float_tensors(file):
        # Matrices may be floats too: an export without quantization.
        if with_floats or _squeezed(tensor.values.shape)[1:]:
            yield tensor


class _Candidates:
    """Tensors of a checkpoint by the shapes that they may have in a file."""

    def __init__(self, tensors: Mapping[str, Floats]) -> None:
        self._views: dict[tuple[int, ...], list[tuple[str, str, Floats]]] = {}
        for key, value in tensors.items():
            shape = _squeezed(value.shape)
            forms = {1: ("plain", "plus-one"), 2: ("plain", "transposed")}.get(len(shape), ())
            for form in forms or (("plain",) if len(shape) > 2 else ()):
                view = _formed(value.reshape(shape), form)
                self._views.setdefault(view.shape, []).append((key, form, view))

    def matching(self, tensor: StoredTensor, file: OrtFile) -> dict[str, str]:
        """Keys of the tensors that the stored one holds, with the form of each."""
        shape = _squeezed(tensor.values.shape)
        candidates = self._views.get(shape, [])
        if not candidates:
            return {}
        # Floats that were 8-bit before are as far off as if they still were.
        step = folded_step(tensor.dequantize(file)) if isinstance(tensor, FloatTensor) else None
        values, bound = _sample(tensor, file, step)
        index = np.unravel_index(_probes(tensor), shape)
        likely = [c for c in candidates if np.all(np.abs(values - c[2][index]) <= bound)]
        if not likely:
            return {}
        stored, bounds = _values_and_bounds(tensor, file, step)
        stored, bounds = stored.reshape(shape), bounds.reshape(shape)
        forms: dict[str, str] = {}
        for key, form, view in likely:
            if key not in forms and all(
                np.all(np.abs(stored[rows] - view[rows]) <= bounds[rows])
                for rows in _blocks(shape[0])
            ):
                forms[key] = form
        return forms


def _probes(tensor: StoredTensor) -> npt.NDArray[np.intp]:
    """Flat indices of a few values: they settle most cases without reading the tensor."""
    size = int(np.prod(tensor.values.shape))
    return np.arange(0, size, max(size // _PROBES, 1))


def _sample(tensor: StoredTensor, file: OrtFile, step: Floats | None) -> tuple[Floats, Floats]:
    probes = _probes(tensor)
    if isinstance(tensor, FloatTensor):
        values, bounds = _values_and_bounds(tensor, file, step)
        return values.reshape(-1)[probes], bounds.reshape(-1)[probes]
    values = tensor.values_at(file, probes)
    steps = np.broadcast_to(tensor.step(file), tensor.values.shape).reshape(-1)[probes]
    return values, _step_bound(values, steps, tensor)


def _values_and_bounds(
    tensor: StoredTensor, file: OrtFile, step: Floats | None
) -> tuple[Floats, Floats]:
    values = tensor.dequantize(file)
    if isinstance(tensor, FloatTensor):
        if step is not None:
            return values, np.broadcast_to(_WITHIN_STEPS * step + np.float32(1e-7), values.shape)
        bound = _FLOAT_TOLERANCE[tensor.values.dtype] * np.abs(values) + 1e-7
        return values, np.asarray(bound, np.float32)
    return values, np.broadcast_to(_step_bound(values, tensor.step(file), tensor), values.shape)


def _step_bound(values: Floats, steps: Floats, tensor: QuantizedTensor) -> Floats:
    bound = _WITHIN_STEPS * steps + np.float32(1e-7)
    if tensor.scale.dtype == "<f2":
        bound = bound + np.float32(_FLOAT_TOLERANCE["<f2"]) * np.abs(values)
    return np.asarray(bound, np.float32)


def _formed(weights: Floats, form: str) -> Floats:
    if form == "transposed":
        return weights.T
    return weights + np.float32(1) if form == "plus-one" else weights


def _blocks(rows: int) -> Iterator[slice]:
    """Slices of rows: a transposed matrix is read a few cache lines at a time."""
    for start in range(0, rows, _BLOCK):
        yield slice(start, start + _BLOCK)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def is_constant(values: npt.NDArray[Any]) -> bool:
    """Whether all values are equal: the content of such a tensor does not identify it."""
    first = values.flat[0]
    # The first few values settle most cases.
    return bool(np.all(values.flat[:_PROBES] == first) and np.all(values == first))

"""Smaller ranges for the 8-bit inputs of a graft's matrices.

The runtime rounds what a matrix reads to 256 levels between the smallest and the largest value, of
all frames together. A few channels after a normalization reach ten times as far as the others, so
most channels get a few levels only. A channel's gain is divided by a number and the matrices'
columns are multiplied with it: in exact arithmetic nothing changes, and the ranges become alike.

Source of the idea: SmoothQuant (Xiao et al., arXiv 2211.10438).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from moonshine_tune.export.matching import find_matches, is_constant
from moonshine_tune.models.base import NormReaders
from moonshine_tune.runtime.layout import RuntimeLayout
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.quantized import Doubles, Floats

# Share of the largest channel that each counts as at least: some are silent.
_LEAST = 1e-4


@dataclass(frozen=True)
class Smoothing:
    """Input scales of adapted matrices.

    Attributes:
        columns: what the columns of a matrix are multiplied with, by the matrix's name.
        gains: gains of normalizations that make up for it, by name.
        base_gains: the same gains as the base has them.
    """

    columns: Mapping[str, Floats]
    gains: Mapping[str, Floats]
    base_gains: Mapping[str, Floats]

    def moments(self, moments: Mapping[str, Doubles]) -> dict[str, Doubles]:
        """Second moments of the matrices' inputs, [in, in], after smoothing."""
        result = dict(moments)
        for name, scale in self.columns.items():
            result[name] = moments[name] / np.outer(scale, scale)
        return result

    def tensors(self, merged: Mapping[str, Floats]) -> "SmoothedTensors":
        """The merged matrices after smoothing, and the gains."""
        return SmoothedTensors(merged, self)


class SmoothedTensors(Mapping[str, Floats]):
    """Merged matrices and gains, each matrix smoothed at its lookup."""

    def __init__(self, merged: Mapping[str, Floats], smoothing: Smoothing) -> None:
        self._merged, self._smoothing = merged, smoothing

    def __getitem__(self, name: str) -> Floats:
        if name in self._smoothing.gains:
            return self._smoothing.gains[name]
        matrix, scale = self._merged[name], self._smoothing.columns.get(name)
        return matrix if scale is None else matrix * scale

    def __iter__(self) -> Iterator[str]:
        yield from self._merged
        yield from self._smoothing.gains

    def __len__(self) -> int:
        return len(self._merged) + len(self._smoothing.gains)


def choose_smoothing(
    layout: RuntimeLayout,
    norms: Iterable[NormReaders],
    base: Mapping[str, Floats],
    merged: Mapping[str, Floats],
    moments: Mapping[str, Doubles],
) -> Smoothing:
    """Scales for the normalizations whose matrices are all written anyway.

    A channel's scale is the square root of its inputs' size over its column's size: both ranges
    get the same share of the difference.

    Args:
        layout: the runtime files; normalizations that are not found in them stay as they are.
        base: every tensor of the base.
        merged: adapted matrices.
        moments: second moments of their inputs.
    """
    smoothed = [
        norm
        for norm in norms
        if np.all(base[norm.gain] + norm.offset != 0)
        and all(name in merged and name in moments for name in norm.matrices)
        and not all(np.array_equal(merged[name], base[name]) for name in norm.matrices)
    ]
    stored = _stored_gains(layout, [norm.gain for norm in smoothed], base)
    columns: dict[str, Floats] = {}
    gains: dict[str, Floats] = {}
    for norm in smoothed:
        if norm.gain in stored:
            scale = _scale(norm.matrices, merged, moments)
            columns |= dict.fromkeys(norm.matrices, scale)
            offset = np.float32(norm.offset)
            gains[norm.gain] = (base[norm.gain] + offset) / scale - offset
    return Smoothing(columns, gains, {name: base[name] for name in gains})


def _scale(
    names: Iterable[str], merged: Mapping[str, Floats], moments: Mapping[str, Doubles]
) -> Floats:
    sizes = np.max([np.sqrt(np.diag(moments[name])) for name in names], axis=0)
    reach = np.max([np.abs(merged[name]).max(axis=0) for name in names], axis=0)
    sizes = np.maximum(sizes, _LEAST * sizes.max() + 1e-12)
    reach = np.maximum(reach, _LEAST * reach.max() + 1e-12)
    scale = np.sqrt(sizes / reach)
    scale /= np.exp(np.log(scale).mean())
    return np.asarray(scale, np.float32)


def _stored_gains(
    layout: RuntimeLayout, names: Iterable[str], base: Mapping[str, Floats]
) -> set[str]:
    """Gains that the files hold as tensors that no other tensor of the base equals."""
    vectors = {name: value for name, value in base.items() if value.ndim == 1}
    unique = {
        name: vectors[name]
        for name in names
        if not is_constant(vectors[name])
        and sum(np.array_equal(vectors[name], value) for value in vectors.values()) == 1
    }
    files = [OrtFile.read(layout.folder / name) for name in layout.files if name.endswith(".ort")]
    return (
        {match.key for file in files for match in find_matches(file, unique)} if unique else set()
    )

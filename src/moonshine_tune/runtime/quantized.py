"""Stored tensors of runtime graphs: reading them, and rewriting them in their own scheme.

Three schemes occur. v1 graphs hold unsigned 8-bit matrices with one scale; the streaming graphs
have one scale per output channel; their front end holds signed 8-bit tensors that a
Cast-Mul-Add chain turns into floats. Norms, biases and some convolutions are plain floats of 32 or
16 bits. Scheme and layout are read from the file, never assumed.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moonshine_tune.runtime.ort_file import Initializer, OrtFile

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

# onnxruntime's products with an 8-bit matrix as their second input, of one or of many scales.
_QUANTIZED_PRODUCTS = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat")
# Share of a step within which a value counts as lying on the grid.
_ON_GRID = 1e-3
_FOLDED_ON_GRID = 0.02
_PROBES = 257


@dataclass(frozen=True)
class Grid:
    """The values that an 8-bit tensor can hold: (level − zero) · scale.

    Attributes:
        scale, zero: shaped to broadcast against the tensor; `zero` is in levels.
        low, high: smallest and largest level.
    """

    scale: Doubles
    zero: Doubles
    low: int
    high: int

    def levels(self, weights: Floats, dither: Doubles | None = None) -> Floats:
        """The nearest level of each weight, whole numbers.

        Args:
            dither: random numbers from 0 to below 1, one per weight: each weight is rounded up or
                down at random, unbiased on average.
        """
        # In 32 bits, as onnxruntime's own quantizer rounds: an untouched weight keeps its byte.
        steps = np.asarray(weights, np.float32) / self.scale.astype(np.float32)
        if dither is None:
            nearest = np.rint(steps, out=steps)
        else:
            nearest = np.rint(steps)
            dithered = np.floor(steps + dither).astype(np.float32)
            # The error of the division must not move a weight that lies on the grid already.
            nearest = np.where(np.abs(steps - nearest) < _ON_GRID, nearest, dithered)
        nearest += self.zero.astype(np.float32)
        return np.clip(nearest, self.low, self.high, out=nearest)

    def transposed(self) -> "Grid":
        """The grid of the transposed matrix."""
        return Grid(self.scale.T, self.zero.T, self.low, self.high)


@dataclass(frozen=True)
class QuantizedTensor:
    """A stored 8-bit tensor with its scale and zero point.

    Attributes:
        axis: the axis with a scale of its own; None for one scale a tensor. Its zero points are as
            many, or one.
        adds_float: whether `zero_point` is a float that is added after scaling (the front end's
            Cast-Mul-Add chain) and not a level that is subtracted before.
    """

    values: Initializer
    scale: Initializer
    zero_point: Initializer
    axis: int | None
    adds_float: bool = False

    @property
    def name(self) -> str:
        """The name of the tensor in its graph."""
        return self.values.name

    def dequantize(self, file: OrtFile) -> Floats:
        """What the graph computes with, in the layout of the file."""
        return self.values_at(file, None)

    def values_at(self, file: OrtFile, indices: npt.NDArray[np.intp] | None) -> Floats:
        """`dequantize` at flat `indices` only (one dimension), or everywhere with None."""
        levels, scale = file.array(self.values), self.step(file)
        zero = self._spread(file.array(self.zero_point))
        if indices is not None:
            levels = levels.reshape(-1)[indices]
            scale = np.broadcast_to(scale, self.values.shape).reshape(-1)[indices]
            zero = np.broadcast_to(zero, self.values.shape).reshape(-1)[indices]
        if self.adds_float:
            scaled: Floats = np.multiply(levels, scale, dtype=np.float32)
            scaled += zero.astype(np.float32)
            return scaled
        # Whole numbers below 2^24: exact in 32 bits.
        steps: Floats = np.subtract(levels, zero, dtype=np.float32)
        steps *= scale
        return steps

    def step(self, file: OrtFile) -> Floats:
        """The quantization step, shaped to broadcast against the tensor."""
        return self._spread(file.array(self.scale)).astype(np.float32)

    def stored_grid(self, file: OrtFile) -> Grid:
        """The grid that the file has."""
        scale = self._spread(file.array(self.scale)).astype(np.float64)
        zero = self._spread(file.array(self.zero_point)).astype(np.float64)
        if self.adds_float:
            zero = np.rint(-zero / np.where(scale == 0, 1.0, scale))
        low, high = (0, 255) if self.values.dtype == "u1" else (-128, 127)
        return Grid(scale, zero, low, high)

    @property
    def shares_zero(self) -> bool:
        """Whether many scales have one zero point."""
        return self.axis is not None and int(np.prod(self.zero_point.shape)) == 1

    def fitting_grid(self, weights: Floats, file: OrtFile) -> Grid:
        """The grid for `weights`, by the rule of the quantizer that made the file.

        Range: smallest to largest value (zero included, but not in the Cast-Mul-Add scheme). A
        scale that differs from the stored one by rounding only is kept. A zero point that many
        channels share is in the middle: their ranges differ, and most reach to both sides.
        """
        old = self.stored_grid(file)
        by_axis = self.axis is not None
        axes = tuple(i for i in range(weights.ndim) if i != self.axis) if by_axis else None
        low = np.asarray(weights.min(axis=axes, keepdims=True), np.float64)
        high = np.asarray(weights.max(axis=axes, keepdims=True), np.float64)
        if not by_axis:
            low, high = low.reshape(old.scale.shape), high.reshape(old.scale.shape)
        if not self.adds_float:
            low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        if self.shares_zero:
            zero = np.full_like(old.zero, (old.low + old.high + 1) // 2)
            scale = np.maximum(high / (old.high - zero), low / (old.low - zero))
        elif old.low < 0 and not self.adds_float and np.all(old.zero == 0):
            # Symmetric signed scheme: the zero point stays 0.
            scale = np.maximum(-low, high) / old.high
            zero = np.zeros_like(scale)
        else:
            scale = (high - low) / (old.high - old.low)
            zero = np.rint(old.low - low / np.where(scale == 0, old.scale, scale))
        near = (np.abs(scale - old.scale) <= 1e-6 * old.scale) & (zero == old.zero)
        scale = np.where(near | (scale == 0), old.scale, scale)
        # As it will be read back: 16-bit scales are coarse.
        scale = scale.astype(self.scale.dtype).astype(np.float64)
        if not self.adds_float:
            zero = np.clip(zero, old.low, old.high)
        return Grid(scale, zero, old.low, old.high)

    def encode(self, levels: npt.NDArray[Any], grid: Grid) -> dict[int, bytes]:
        """Bytes to write (offset → bytes) so that the file holds these levels of `grid`."""
        zero = -grid.zero * grid.scale if self.adds_float else grid.zero
        return {
            self.values.offset: levels.astype(self.values.dtype).tobytes(),
            self.scale.offset: grid.scale.astype(self.scale.dtype).tobytes(),
            self.zero_point.offset: zero.astype(self.zero_point.dtype).tobytes(),
        }

    def requantize(
        self, weights: Floats, file: OrtFile, *, dither: bool = False
    ) -> dict[int, bytes]:
        """Bytes to write (offset → bytes) so that the file holds `weights` in its own scheme.

        Args:
            dither: round up or down at random, unbiased on average, with a fixed seed: the same
                request gives the same bytes. For weights that differ slightly from values on the
                grid: rounding to the nearest step would lose every change below half a step, and
                with it most of an adapter. Price: an error of up to one step.
        """
        grid = self.fitting_grid(weights, file)
        noise = _dither(self.name, weights.shape) if dither else None
        return self.encode(grid.levels(weights, noise), grid)

    def holds_exactly(self, weights: Floats, file: OrtFile) -> bool:
        """Whether `weights` are the stored values, as those of a rebuilt checkpoint are."""
        steps = np.broadcast_to(self.step(file), self.values.shape)
        # A few probes settle it for a float base, which is off the grid nearly everywhere.
        probes = np.arange(0, weights.size, max(weights.size // _PROBES, 1))
        index = np.unravel_index(probes, weights.shape)
        away = np.abs(self.values_at(file, probes) - weights[index])
        if not np.all(away <= _ON_GRID * steps[index]):
            return False
        return bool(np.all(np.abs(self.dequantize(file) - weights) <= _ON_GRID * steps))

    def _spread(self, vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.axis is None or vector.size == 1:
            return vector.reshape(())
        shape = [1] * len(self.values.shape)
        shape[self.axis] = -1
        return vector.reshape(shape)


@dataclass(frozen=True)
class FloatTensor:
    """A tensor that a graph stores as floats of 32 or 16 bits."""

    values: Initializer

    @property
    def name(self) -> str:
        """The name of the tensor in its graph."""
        return self.values.name

    def dequantize(self, file: OrtFile) -> Floats:
        """The values in 32 bits."""
        return file.array(self.values).astype(np.float32)

    def requantize(
        self, weights: Floats, file: OrtFile, *, dither: bool = False
    ) -> dict[int, bytes]:
        """Bytes to write (offset → bytes) so that the file holds `weights`."""
        del file, dither
        return {self.values.offset: weights.astype(self.values.dtype).tobytes()}


StoredTensor = QuantizedTensor | FloatTensor


def folded_step(values: Floats) -> Floats | None:
    """The quantization step of floats that were 8-bit before, shaped to broadcast; else None.

    A converter that folds constants turns a Cast-Mul-Add chain into its result: floats that lie on
    256 levels in each channel.
    """
    if values.ndim < 2:
        return None
    for axis in range(values.ndim):
        others = tuple(i for i in range(values.ndim) if i != axis)
        reach = np.ptp(values, axis=others, keepdims=True).astype(np.float64)
        # Rounding of the zero point may have removed one level.
        for count in (255, 254):
            step = np.where(reach == 0, 1.0, reach / count)
            levels = values / step
            if np.all(np.abs(levels - np.rint(levels)) < _FOLDED_ON_GRID):
                return np.asarray(step, np.float32)
    return None


def quantized_tensors(file: OrtFile) -> Iterator[QuantizedTensor]:
    """Every 8-bit tensor of a graph that has a scale and a zero point of its name."""
    names: set[str] = set()
    for item in file.initializers:
        if item.dtype not in ("u1", "i1") or len(item.shape) < 2 or item.name in names:
            continue
        names.add(item.name)
        stem = item.name.removesuffix("_quantized")
        scale = file.by_name.get(f"{stem}_scale")
        zero = file.by_name.get(f"{stem}_zero_point")
        if scale is None or zero is None or scale.dtype not in ("<f4", "<f2"):
            continue
        known, axis = _axis(item.shape, scale.shape)
        if known and int(np.prod(zero.shape)) in (1, int(np.prod(scale.shape))):
            yield QuantizedTensor(item, scale, zero, axis, zero.dtype in ("<f4", "<f2"))


def takes_channel_scales(file: OrtFile) -> dict[str, bool]:
    """Matrices that only quantized products read: these take vectors of scales.

    Returns:
        By name, whether the products run at every token: both branches of a decoder have them.
    """
    readers: dict[str, list[bool]] = {}
    for node in file.nodes:
        for position, name in enumerate(node.inputs):
            is_factor = node.op in _QUANTIZED_PRODUCTS and position == 1
            readers.setdefault(name, []).append(is_factor)
    return {name: len(factors) > 1 for name, factors in readers.items() if all(factors)}


def with_channel_scales(file: OrtFile, tensors: Iterable[QuantizedTensor]) -> OrtFile:
    """A copy of a file in which these matrices have a scale for each column.

    The values that the graph computes with stay: each column gets the scale that the matrix had.
    onnxruntime's quantized products take a vector in place of the one scale. The zero point stays
    one number: a vector of them costs time at each product.
    """
    values = {
        tensor.scale.name: np.repeat(file.array(tensor.scale).reshape(1), tensor.values.shape[1])
        for tensor in tensors
    }
    return file.resized(values) if values else file


def _axis(shape: tuple[int, ...], scale: tuple[int, ...]) -> tuple[bool, int | None]:
    """Whether the layout is known, and the axis that has one scale per index."""
    size = int(np.prod(scale))
    if size == 1:
        return True, None
    if len(scale) == len(shape):
        # The scale has all dimensions: its long one is the axis.
        axes = [i for i, count in enumerate(scale) if count > 1]
        return len(axes) == 1 and shape[axes[0]] == size, axes[0]
    # Output channels are the columns of a product's right side, of square ones too, and the
    # first axis of a convolution.
    order = (1, 0) if len(shape) == 2 else (0, 1)
    for axis in order:
        if shape[axis] == size:
            return True, axis
    return False, None


def float_tensors(file: OrtFile) -> Iterator[FloatTensor]:
    """Every tensor of more than one value that a graph stores as floats; scales are left out."""
    taken = {t.scale.name for t in quantized_tensors(file)}
    taken |= {t.zero_point.name for t in quantized_tensors(file)}
    for item in file.initializers:
        if item.dtype in ("<f4", "<f2") and item.name not in taken and np.prod(item.shape) > 1:
            yield FloatTensor(item)


def _dither(name: str, shape: tuple[int, ...]) -> Doubles:
    """Random numbers from 0 to below 1, seeded by the tensor's name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).random(shape)

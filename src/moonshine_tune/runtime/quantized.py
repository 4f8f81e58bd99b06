"""8-bit tensors in runtime graphs: finding them with their scale and zero point, and remaking them.

v1 graphs hold unsigned 8-bit weights with one scale a tensor; the streaming graphs have one scale
an output channel. Scheme and layout are read off the file, never assumed.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moonshine_tune.runtime.ort_file import Initializer, OrtFile

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class QuantizedTensor:
    """A stored matrix with its scale and zero point; `axis` is None for one scale a tensor."""

    values: Initializer
    scale: Initializer
    zero_point: Initializer
    axis: int | None

    @property
    def name(self) -> str:
        """The name of the matrix in its graph."""
        return self.values.name

    def dequantize(self, file: OrtFile) -> Floats:
        """(q − zero point) · scale, in the layout of the file."""
        scale, zero = (
            self._spread(file.array(self.scale)),
            self._spread(file.array(self.zero_point)),
        )
        steps = file.array(self.values).astype(np.int32) - zero.astype(np.int32)
        return (steps.astype(np.float32) * scale.astype(np.float32)).astype(np.float32)

    def step(self, file: OrtFile) -> Floats:
        """The quantization step, shaped to broadcast against the matrix."""
        return self._spread(file.array(self.scale)).astype(np.float32)

    def requantize(
        self, weights: Floats, file: OrtFile, *, dither: bool = False
    ) -> dict[int, bytes]:
        """Bytes to write (offset → bytes) so that the file holds `weights` in its own scheme.

        Range: smallest to largest value, zero included, as onnxruntime's dynamic quantizer has it.
        A scale that differs from the stored one by rounding only is kept.

        Args:
            dither: round up or down by chance, right on average (a fixed chance: the same request
                gives the same bytes). For weights that are a small change of values that lie on
                the grid already: to the nearest step, every change below half a step would
                vanish, and with it most of an adapter. Price: an error of up to one step.
        """
        low_level, high_level = _levels(self.values.dtype)
        axes = None if self.axis is None else tuple(a for a in (0, 1) if a != self.axis)
        low = np.minimum(weights.min(axis=axes), 0.0).astype(np.float64)
        high = np.maximum(weights.max(axis=axes), 0.0).astype(np.float64)
        old_zero = file.array(self.zero_point).reshape(np.shape(low))
        if np.all(old_zero == 0) and low_level < 0:
            # Symmetric signed scheme: the zero point stays 0.
            scale = np.maximum(-low, high) / high_level
            zero = np.zeros_like(scale)
        else:
            scale = (high - low) / (high_level - low_level)
            zero = np.rint(low_level - low / np.where(scale == 0, 1.0, scale))
        old_scale = file.array(self.scale).reshape(np.shape(scale)).astype(np.float64)
        near = (np.abs(scale - old_scale) <= 1e-6 * old_scale) & (zero == old_zero)
        scale = np.where(near | (scale == 0), old_scale, scale).astype(np.float32)
        zero = np.clip(zero, low_level, high_level)
        steps = weights / self._spread(scale) + self._spread(zero)
        steps = np.floor(steps + _chance(self.name, weights.shape)) if dither else np.rint(steps)
        quantized = np.clip(steps, low_level, high_level).astype(self.values.dtype)
        return {
            self.values.offset: quantized.tobytes(),
            self.scale.offset: np.asarray(scale, dtype=self.scale.dtype).tobytes(),
            self.zero_point.offset: np.asarray(zero, dtype=self.zero_point.dtype).tobytes(),
        }

    def _spread(self, vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.axis is None:
            return vector.reshape(())
        return vector.reshape((-1, 1) if self.axis == 0 else (1, -1))


def _chance(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Numbers from 0 to below 1 that depend on the tensor's name alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).random(shape)


def _levels(dtype: str) -> tuple[int, int]:
    return (0, 255) if dtype == "u1" else (-128, 127)


def quantized_tensors(file: OrtFile) -> Iterator[QuantizedTensor]:
    """Every 8-bit matrix of a graph whose scale and zero point lie beside it, under its name."""
    seen: set[str] = set()
    for item in file.initializers:
        if item.dtype not in ("u1", "i1") or len(item.shape) != 2 or item.name in seen:
            continue
        seen.add(item.name)
        stem = item.name.removesuffix("_quantized")
        scale = file.by_name.get(f"{stem}_scale")
        zero = file.by_name.get(f"{stem}_zero_point")
        if scale is None or zero is None:
            continue
        size = int(np.prod(scale.shape)) if scale.shape else 1
        if size == 1:
            yield QuantizedTensor(item, scale, zero, None)
        elif size == item.shape[1]:
            # Output channels are the columns of a product's right side; square ones too.
            yield QuantizedTensor(item, scale, zero, 1)
        elif size == item.shape[0]:
            yield QuantizedTensor(item, scale, zero, 0)

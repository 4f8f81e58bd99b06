"""Rounding a matrix so that the errors cancel in its output."""

import numpy as np
import numpy.typing as npt
import pytest

from moonshine_tune.export.rounding import compensated_levels
from moonshine_tune.runtime.quantized import Doubles, Floats, Grid

_ROWS, _COLUMNS = 12, 40


def _grid(scale: float | Doubles) -> Grid:
    return Grid(np.asarray(scale, np.float64), np.asarray(128.0), 0, 255)


def _inputs(count: int, seed: int) -> npt.NDArray[np.float64]:
    """Related inputs of very different size, from a few directions, as hidden states are."""
    mixing = np.random.default_rng(1).standard_normal((8, _COLUMNS))
    sizes = np.exp(np.random.default_rng(2).uniform(-2, 2, _COLUMNS))
    rng = np.random.default_rng(seed)
    noise = 0.3 * rng.standard_normal((count, _COLUMNS))
    return (rng.standard_normal((count, 8)) @ mixing + noise) * sizes


def _weights() -> Floats:
    return np.random.default_rng(3).standard_normal((_ROWS, _COLUMNS)).astype(np.float32)


def _output_error(levels: npt.NDArray[np.int32], grid: Grid, inputs: Doubles) -> float:
    away = (levels - grid.zero) * grid.scale - _weights()
    return float(np.linalg.norm(inputs @ away.T))


def test_errors_cancel_on_inputs_that_were_not_seen() -> None:
    inputs, unseen = _inputs(300, 4), _inputs(300, 5)
    grid = _grid(0.05)
    nearest = np.rint(_weights() / 0.05).astype(np.int32) + 128
    levels = compensated_levels(_weights(), grid, inputs.T @ inputs)
    assert _output_error(levels, grid, unseen) < 0.5 * _output_error(nearest, grid, unseen)


def test_weights_on_the_grid_stay() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (_ROWS, _COLUMNS))
    steps = np.linspace(0.01, 0.02, _ROWS)[:, None]
    weights = ((levels - 128) * steps).astype(np.float32)
    inputs = _inputs(100, 4)
    assert np.array_equal(compensated_levels(weights, _grid(steps), inputs.T @ inputs), levels)


def test_the_order_of_the_inputs_does_not_matter() -> None:
    """Columns are rounded by the size of their inputs, wherever they are."""
    inputs = _inputs(300, 4)
    moments = inputs.T @ inputs
    shuffled = np.random.default_rng(6).permutation(_COLUMNS)
    there = compensated_levels(
        _weights()[:, shuffled], _grid(0.05), moments[np.ix_(shuffled, shuffled)]
    )
    here = compensated_levels(_weights(), _grid(0.05), moments)
    assert np.mean(there == here[:, shuffled]) > 0.99


def test_inputs_that_never_occurred_are_no_reason_to_fail() -> None:
    levels = compensated_levels(_weights(), _grid(0.05), np.zeros((_COLUMNS, _COLUMNS)))
    assert levels == pytest.approx(np.rint(_weights() / 0.05) + 128)

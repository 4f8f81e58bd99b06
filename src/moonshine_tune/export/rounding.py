"""Rounding a matrix so that the errors cancel in its output.

Plain rounding minimizes the error of each weight. The error of the output matters more: with the
second moments H = E[x xᵀ] of a layer's inputs, a row w rounded to q has the error
(w − q) H (w − q)ᵀ. Columns are rounded one after the other, those with the largest inputs first,
and the error of each is spread over the remaining ones (Frantar et al., "GPTQ", 2022, after Hassibi
and Stork's optimal brain surgeon).
"""

import numpy as np
import numpy.typing as npt

from moonshine_tune.runtime.quantized import Doubles, Floats, Grid

# Share of each input's energy that counts as unrelated to the other inputs: errors must cancel on
# other clips too. Of each, not of the mean: one input often has 75 times the mean.
_UNRELATED = 0.02
# Share of the mean energy that each input has at least: some never occurred.
_LEAST_ENERGY = 1e-4
_BLOCK = 96


def compensated_levels(weights: Floats, grid: Grid, moments: Doubles) -> npt.NDArray[np.int32]:
    """Levels of `grid` for `weights`, [out, in], with rounding errors compensated.

    Args:
        moments: second moments of the inputs, [in, in]; need not be normalized.
    """
    rows, columns = weights.shape
    energy = np.diag(moments)
    # The last columns have nothing left to correct them: they are those that matter least.
    order = np.argsort(-energy, kind="stable")
    scale = np.broadcast_to(grid.scale, weights.shape)[:, order]
    zero = np.broadcast_to(grid.zero, weights.shape)[:, order]
    damped = moments[np.ix_(order, order)]
    least = max(_LEAST_ENERGY * float(np.mean(energy)), 1e-12)
    damped[np.diag_indices(columns)] += _UNRELATED * energy[order] + least
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    remaining = weights[:, order].astype(np.float64)
    levels = np.zeros((rows, columns), np.int32)
    # In blocks: the errors of a block reach the columns after it in one product.
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        errors = np.zeros((rows, end - start))
        for column in range(start, end):
            steps = np.rint(remaining[:, column] / scale[:, column]) + zero[:, column]
            level = np.clip(steps, grid.low, grid.high)
            levels[:, column] = level
            stored = (level - zero[:, column]) * scale[:, column]
            error = (remaining[:, column] - stored) / upper[column, column]
            errors[:, column - start] = error
            remaining[:, column + 1 : end] -= np.outer(error, upper[column, column + 1 : end])
        remaining[:, end:] -= errors @ upper[start:end, end:]
    unordered = np.empty_like(levels)
    unordered[:, order] = levels
    return unordered

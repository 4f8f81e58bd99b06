"""Rounding a matrix so that the errors cancel in its output.

Plain rounding makes the error of each weight smallest. What matters is the output: with the second
moments H = E[x xᵀ] of a layer's inputs, the error of a row w rounded to q is (w − q) H (w − q)ᵀ.
Columns are rounded one after the other, and what each leaves over is spread on those that are still
to come (Frantar et al., "GPTQ", 2022, after Hassibi and Stork's optimal brain surgeon).
"""

import numpy as np
import numpy.typing as npt

from moonshine_tune.runtime.quantized import Doubles, Floats, Grid

# Share of the mean diagonal added to it: inputs that never occurred must not run wild.
_DAMPING = 0.01
_BLOCK = 96


def compensated_levels(weights: Floats, grid: Grid, moments: Doubles) -> npt.NDArray[np.int32]:
    """Levels of `grid` for `weights`, [out, in], with rounding errors compensated.

    Args:
        moments: second moments of the inputs, [in, in]; need not be normalized.
    """
    rows, columns = weights.shape
    scale = np.broadcast_to(grid.scale, weights.shape)
    zero = np.broadcast_to(grid.zero, weights.shape)
    damped = moments + np.eye(columns) * max(_DAMPING * float(np.mean(np.diag(moments))), 1e-12)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = weights.astype(np.float64)
    levels = np.zeros((rows, columns), np.int32)
    # In blocks: the errors of a block reach the columns behind it in one product.
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        errors = np.zeros((rows, end - start))
        for column in range(start, end):
            steps = np.rint(left[:, column] / scale[:, column]) + zero[:, column]
            level = np.clip(steps, grid.low, grid.high)
            levels[:, column] = level
            stored = (level - zero[:, column]) * scale[:, column]
            error = (left[:, column] - stored) / upper[column, column]
            errors[:, column - start] = error
            left[:, column + 1 : end] -= np.outer(error, upper[column, column + 1 : end])
        left[:, end:] -= errors @ upper[start:end, end:]
    return levels

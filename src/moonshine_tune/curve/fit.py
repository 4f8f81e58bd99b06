"""A learning curve: a power law that starts at the base model and ends at a floor.

    WER(n) = base · (floor + (1 - floor) · (1 + n / half) ^ -power)

With no recordings it is the base model's WER, and for many of them a power law with a floor, as
errors of networks are (Hestness et al. 2017, arXiv 1712.00409). A few trainings on few recordings
agree with many such curves, so no single one is chosen: all curves of a grid count, by how well
they agree. Clips of dev and seeds are drawn anew each time, and each curve is set to the level of
all of dev again: what is predicted is the WER on this dev set. The spread of what the curves say is
the interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Half of the draws lie on each side of these ends of an 80 % interval.
_ENDS = (0.1, 0.5, 0.9)
_DRAWS = 500
_SEED = 20_260_101
# The grid: every value is as likely as the next one before anything is trained. Low floors are more
# likely than high ones: a domain that is worth training on has much to learn.
_FLOORS = 0.95 * np.linspace(0.0, 1.0, 16) ** 1.5
_POWERS = np.geomspace(0.2, 2.0, 10)
_HALVES = np.geomspace(1.0, 1000.0, 18)
# What no such curve describes, as a share of the WER: at a size, and with each doubling beyond.
_MISFIT, _MISFIT_BEYOND = 0.04, 0.04
# Spread between seeds where there is one training of each size, as a share of the WER; it is also
# mixed with what is measured, since two or three trainings say little of it.
_SEED_SPREAD, _SEED_SPREAD_COUNT = 0.08, 2.0
# An error rate is not known better than this, in points.
_LEAST_POINTS = 0.2


@dataclass(frozen=True)
class Training:
    """The result of one training.

    Attributes:
        recordings: number of clips.
        errors: words that are wrong in each clip of dev.
    """

    recordings: int
    errors: Array


@dataclass(frozen=True)
class Range:
    """The middle of what is expected, and its 80 % interval."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Array) -> "Range":
        """Of draws."""
        low, middle, high = np.quantile(values, _ENDS)
        return cls(float(middle), float(low), float(high))


class LearningCurve:
    """The curves that agree with some trainings.

    Args:
        trainings: of at least two sizes.
        base: errors of the base model in each clip of dev.
        words: reference words of each clip of dev.

    Raises:
        ValueError: fewer than two sizes, or a base model without errors.
    """

    def __init__(self, trainings: Sequence[Training], base: Array, words: Array) -> None:
        sizes = sorted({item.recordings for item in trainings})
        if len(sizes) < 2 or not base.sum() > 0:
            raise ValueError("a curve needs two sizes, and errors of the base model")
        self._sizes = np.array(sizes, dtype=float)
        self._largest = sizes[-1]
        groups = [[t.errors for t in trainings if t.recordings == size] for size in sizes]
        self._spread = _seed_spread(groups, words)
        self._counts = np.array([len(group) for group in groups], dtype=float)
        floors, powers, halves = np.meshgrid(_FLOORS, _POWERS, _HALVES, indexing="ij")
        self._grid = np.stack([floors.ravel(), powers.ravel(), halves.ravel()])
        self._bases, self._curves = self._drawn(groups, base, words)

    def _drawn(self, groups: list[list[Array]], base: Array, words: Array) -> tuple[Array, Array]:
        """WER of the base [D], and one curve [3, D], of each draw of clips and seeds."""
        rng = np.random.default_rng(_SEED)
        largest = 100.0 * np.mean([errors.sum() for errors in groups[-1]]) / max(words.sum(), 1.0)
        shapes = self._shape(self._grid, self._sizes)
        bases, chosen = np.zeros(_DRAWS), np.zeros(_DRAWS, dtype=int)
        for draw in range(_DRAWS):
            clips = rng.integers(len(words), size=len(words))
            total = max(words[clips].sum(), 1.0)
            rates = np.array([
                np.mean([
                    group[index][clips].sum() for index in rng.integers(len(group), size=len(group))
                ])
                for group in groups
            ]) * 100.0 / total  # fmt: skip
            bases[draw] = max(100.0 * base[clips].sum() / total, _LEAST_POINTS)
            # Drawing k seeds anew has a k-th too little of their variance, and for one seed none.
            sigma = np.sqrt(
                (self._spread * rates / self._counts) ** 2
                + (_MISFIT * rates) ** 2
                + _LEAST_POINTS**2
            )
            misses = (bases[draw] * shapes - rates) / sigma
            log_likelihood = -0.5 * (misses**2).sum(axis=1)
            weights = np.exp(log_likelihood - log_likelihood.max())
            chosen[draw] = rng.choice(len(weights), p=weights / weights.sum())
            # Hard clips that were drawn more than once are hard at every size.
            drawn = 100.0 * np.mean([errors[clips].sum() for errors in groups[-1]]) / total
            bases[draw] *= (largest + _LEAST_POINTS) / (drawn + _LEAST_POINTS)
        return bases, self._grid[:, chosen]

    @staticmethod
    def _shape(curves: Array, recordings: Array) -> Array:
        """Share of the base model's WER that remains, [curves, recordings]."""
        floor, power, half = (values[:, None] for values in curves)
        shape: Array = floor + (1.0 - floor) * (1.0 + recordings[None, :] / half) ** -power
        return shape

    def _at(self, recordings: int) -> Array:
        """The WER of each curve, [D]."""
        shape = self._shape(self._curves, np.array([float(recordings)]))[:, 0]
        values: Array = self._bases * shape
        return values

    def predict(self, recordings: int) -> Range:
        """WER in percent of one more training, on so many recordings."""
        values = self._at(recordings)
        doublings = max(np.log2(max(recordings, 1) / self._largest), 0.0)
        share = np.sqrt(self._spread**2 + _MISFIT**2 + (_MISFIT_BEYOND * doublings) ** 2)
        noise = np.random.default_rng(_SEED + recordings).standard_normal(len(values))
        return Range.of(np.clip(values * (1.0 + share * noise), 0.0, None))

    def gain(self, before: int, after: int) -> Range:
        """Points of WER that more recordings gain, apart from the luck of single trainings."""
        return Range.of(self._at(before) - self._at(after))


def _seed_spread(groups: list[list[Array]], words: Array) -> float:
    """Standard deviation between trainings of a size, as a share of their WER."""
    squares, count = _SEED_SPREAD_COUNT * _SEED_SPREAD**2, _SEED_SPREAD_COUNT
    for group in groups:
        totals = np.array([errors.sum() for errors in group])
        if len(group) > 1 and totals.mean() > 0:
            squares += float(((totals / totals.mean() - 1.0) ** 2).sum())
            count += len(group) - 1
    return float(np.sqrt(squares / count))

"""Percentile, bootstrap interval and evenly spaced subset, as all packages use them."""

import math
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

_RESAMPLES = 1000
_SEED = 20_260_101

_Item = TypeVar("_Item")


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, interpolated linearly.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def bootstrap_interval(
    items: Sequence[_Item], statistic: Callable[[Sequence[_Item]], float]
) -> tuple[float, float]:
    """95 % percentile interval of `statistic`, from 1000 bootstrap resamples of the items.

    The seed is fixed: the same items in the same order give the same interval.

    Raises:
        ValueError: there are no items.
    """
    rng = random.Random(_SEED)
    count = len(items)
    if not count:
        raise ValueError("no items")
    values = [statistic(rng.choices(items, k=count)) for _ in range(_RESAMPLES)]
    return percentile(values, 0.025), percentile(values, 0.975)


def evenly_spaced(count: int, at_most: int) -> list[int]:
    """At most `at_most` of the indices 0 to `count` - 1, evenly spaced, both ends included."""
    if count <= at_most:
        return list(range(count))
    last = count - 1
    return sorted({round(k * last / max(at_most - 1, 1)) for k in range(at_most)})

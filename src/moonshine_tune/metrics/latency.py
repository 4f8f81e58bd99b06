"""Figures of a measurement: percentiles, bands of clip length, ratios with intervals. No audio."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from moonshine_tune.core.statistics import bootstrap_interval, percentile
from moonshine_tune.metrics.wer import rounded

BAND_EDGES_S = (0.0, 2.0, 5.0, 10.0, 20.0, math.inf)
Pairs = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Ratio:
    """One figure of this folder over that of the other, with the 95 % interval of a bootstrap."""

    ratio: float
    ci95: tuple[float, float] | None = None

    def to_record(self) -> dict[str, Any]:
        """The JSON object."""
        return {"ratio": round(self.ratio, 4), "ci95": rounded(self.ci95)}


def spread_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum, in milliseconds.

    Raises:
        ValueError: there are no values.
    """
    values = percentile(seconds, 0.5), percentile(seconds, 0.95), max(seconds)
    return {
        name: round(1000 * value, 2)
        for name, value in zip(("median", "p95", "max"), values, strict=True)
    }


def bands_of(lengths: Sequence[float], calls: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Latency by clip length, as JSON objects; bands without clips are left out.

    Args:
        lengths: seconds of each clip.
        calls: for each clip, seconds of each call.
    """
    bands = []
    for low, high in pairwise(BAND_EDGES_S):
        rows = [index for index, length in enumerate(lengths) if low <= length < high]
        if not rows:
            continue
        spent = [seconds for index in rows for seconds in calls[index]]
        audio_s = sum(lengths[index] * len(calls[index]) for index in rows)
        bands.append({
            "from_s": low,
            "to_s": None if math.isinf(high) else high,
            "clips": len(rows),
            "latency_ms": spread_ms(spent),
            "rtf": round(sum(spent) / audio_s, 5) if audio_s else 0.0,
        })  # fmt: skip
    return bands


def paired_ratios(
    these: Sequence[Sequence[float]], others: Sequence[Sequence[float]]
) -> dict[str, Ratio]:
    """Latency of one folder over another's on the same clips, bootstrapped over clips.

    A clip counts with the median of its calls, so that one disturbed call changes nothing.
    `latency` is the geometric mean of the ratios of single clips; `median` and `p95` are ratios
    of these figures over all clips.

    Args:
        these, others: for each clip, in the same order, seconds of each call.
    """
    pairs = [
        (percentile(mine, 0.5), percentile(theirs, 0.5))
        for mine, theirs in zip(these, others, strict=True)
    ]

    def geometric_mean(drawn: Pairs) -> float:
        return math.exp(sum(math.log(mine / theirs) for mine, theirs in drawn) / len(drawn))

    def of_percentile(share: float) -> Callable[[Pairs], float]:
        def ratio(drawn: Pairs) -> float:
            mine = percentile([pair[0] for pair in drawn], share)
            return mine / percentile([pair[1] for pair in drawn], share)

        return ratio

    return {
        "latency": bootstrap_ratio(pairs, geometric_mean),
        "median": bootstrap_ratio(pairs, of_percentile(0.5)),
        "p95": bootstrap_ratio(pairs, of_percentile(0.95)),
    }


def bootstrap_ratio(pairs: Pairs, figure: Callable[[Pairs], float]) -> Ratio:
    """`figure` of the pairs, with a percentile interval from resampling them.

    One pair has no interval.
    """
    if len(pairs) < 2:
        return Ratio(figure(pairs))
    return Ratio(figure(pairs), bootstrap_interval(pairs, figure))

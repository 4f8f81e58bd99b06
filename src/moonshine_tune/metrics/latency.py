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
class Spread:
    """Median, 95th percentile and maximum, in the unit of the values."""

    median: float
    p95: float
    largest: float

    def to_ms(self) -> dict[str, float]:
        """Seconds as a JSON object in milliseconds."""
        values = {"median": self.median, "p95": self.p95, "max": self.largest}
        return {name: round(1000 * seconds, 2) for name, seconds in values.items()}


@dataclass(frozen=True)
class Band:
    """Clips of one range of lengths: how many, their latency in seconds, their real-time factor."""

    from_s: float
    to_s: float
    clips: int
    latency: Spread
    rtf: float

    def to_record(self) -> dict[str, Any]:
        """The JSON object; the last band has no upper edge."""
        return {
            "from_s": self.from_s,
            "to_s": None if math.isinf(self.to_s) else self.to_s,
            "clips": self.clips,
            "latency_ms": self.latency.to_ms(),
            "rtf": round(self.rtf, 5),
        }


@dataclass(frozen=True)
class Ratio:
    """One figure of this folder over that of the other, with the 95 % interval of a bootstrap."""

    ratio: float
    ci95: tuple[float, float] | None = None

    def to_record(self) -> dict[str, Any]:
        """The JSON object."""
        interval = None if self.ci95 is None else rounded(self.ci95)
        return {"ratio": round(self.ratio, 4), "ci95": interval}


def spread_of(values: Sequence[float]) -> Spread:
    """Median, 95th percentile and maximum.

    Raises:
        ValueError: there are no values.
    """
    return Spread(percentile(values, 0.5), percentile(values, 0.95), max(values))


def bands_of(lengths: Sequence[float], calls: Sequence[Sequence[float]]) -> tuple[Band, ...]:
    """Latency by clip length; bands without clips are left out.

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
        rtf = sum(spent) / audio_s if audio_s else 0.0
        bands.append(Band(low, high, len(rows), spread_of(spent), rtf))
    return tuple(bands)


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

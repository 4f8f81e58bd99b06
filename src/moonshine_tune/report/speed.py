"""Latency of a benchmark by length of the clip."""

from dataclasses import dataclass

from moonshine_tune.report.cells import clean
from moonshine_tune.report.figures import Interval
from moonshine_tune.runs.records import BandRecord, BenchmarkRecord


@dataclass(frozen=True)
class Lengths:
    """Clips of about the same length: latency of the other folder, where there is one, and of this.

    An interval goes from the median to the 95th percentile, in milliseconds.
    """

    highest: float
    bands: tuple[tuple[BandRecord, Interval | None, Interval | None], ...]


def latency_by_length(benchmark: BenchmarkRecord) -> Lengths | None:
    """None where nothing was measured."""
    compared = benchmark.other.by_length if benchmark.other else []
    baseline = {band.from_s: band for band in compared}
    bands = tuple(
        (band, _span(baseline.get(band.from_s)), _span(band)) for band in benchmark.by_length
    )
    spans = [span for _, *both in bands for span in both if span]
    return Lengths(max(span.high for span in spans), bands) if spans else None


def _span(band: BandRecord | None) -> Interval | None:
    if band is None:
        return None
    median, p95 = clean(band.latency_ms.get("median")), clean(band.latency_ms.get("p95"))
    if median is None or p95 is None:
        return None
    return Interval(median, (median, max(p95, median)))

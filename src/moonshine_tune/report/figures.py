"""Figures of plain numbers, as SVG: where things lie. The templates of `figures.html` write it.

Colors and fonts come from the page's style sheet through classes, so that one figure serves light
and dark. Every coordinate that is written is a finite number, whatever the values are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from moonshine_tune.core.statistics import percentile
from moonshine_tune.report.cells import clean
from moonshine_tune.report.environment import environment

if TYPE_CHECKING:
    # A report is also written where the benchmark's dependencies do not load.
    from moonshine_tune.evaluation.benchmark.run import BenchmarkResult

_MAX_POINTS = 300

Point = tuple[float, float | None]


def nice_ticks(low: float, high: float, wanted: int = 4) -> tuple[float, ...]:
    """Round numbers (1, 2 or 5 times a power of ten) that cover `low` to `high`, at least two."""
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-30):
        high = low + (abs(low) or 1.0)
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** floor(log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return tuple(index * step for index in range(first, last + 1))


@dataclass(frozen=True)
class _Axes:
    """Where values lie in a drawing: the ranges of both axes, and the margins around them."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    width: int = 360
    height: int = 208
    left: int = 46
    top: int = 12
    side: int = 12
    below: int = 34

    @property
    def right(self) -> int:
        return self.width - self.side

    @property
    def bottom(self) -> int:
        return self.height - self.below

    def x(self, value: float) -> str:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return _coordinate(self.left + share * (self.right - self.left))

    def y(self, value: float) -> str:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return _coordinate(self.bottom - share * (self.bottom - self.top))


def _coordinate(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _draw(figure: str, **content: Any) -> Markup:
    macro = getattr(environment().get_template("figures.html").module, figure)
    return Markup(macro(**content))  # escaped by the template


# --- charts of a run


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        points: x and y, by rising x; a y of None breaks the line.
        style: `main`, `faint` (raw values behind a smoothed line), `marked` (dots and a line) or
            `dots` alone.
    """

    name: str
    points: tuple[Point, ...]
    style: str = "main"

    def drawn(self, axes: _Axes) -> list[list[tuple[str, str]]]:
        """The pieces between the missing values, each as coordinates."""
        groups = groupby(self.points, key=lambda point: clean(point[1]) is not None)
        return [
            [(axes.x(x), axes.y(y)) for x, y in _known(list(points))]
            for is_there, points in groups
            if is_there
        ]


@dataclass(frozen=True)
class Bound:
    """A horizontal line that must not be crossed, or that is to be compared with."""

    name: str
    value: float


@dataclass(frozen=True)
class Chart:
    """One small chart over `x_name`. `best_x` marks the chosen step."""

    title: str
    unit: str
    series: tuple[Series, ...]
    bound: Bound | None = None
    best_x: float | None = None
    note: str = ""
    x_name: str = "step"

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(_known(series.points) for series in self.series)

    @property
    def description(self) -> str:
        """The chart in one sentence, for screen readers."""
        parts = []
        for series in self.series:
            if values := [y for _, y in _known(series.points)]:
                parts.append(
                    f"{series.name} from {values[0]:.4g} to {values[-1]:.4g}, "
                    f"lowest {min(values):.4g}, highest {max(values):.4g}"
                )
        return f"{self.title}: {'; '.join(parts)}"

    @property
    def drawing(self) -> Markup:
        """The chart as one `<svg>` element."""
        return line_chart(self)


def line_chart(chart: Chart) -> Markup:
    """The chart as one `<svg>` element, or an empty text where there is nothing to draw.

    The script of the page shows values from `data-points`: `[[name, [[x, y, left, top], …]], …]`
    with `left` and `top` in the units of the view box.
    """
    if chart.is_empty:
        return Markup("")
    axes = _axes_of(chart)
    values = [
        [s.name, [[x, y, float(axes.x(x)), float(axes.y(y))] for x, y in _known(s.points)]]
        for s in chart.series
    ]
    best = [(axes.x(x), axes.y(y)) for x, y in _known(chart.series[-1].points) if x == chart.best_x]
    x_ticks = nice_ticks(axes.x_low, axes.x_high, 5)
    return _draw(
        "line_chart",
        chart=chart,
        axes=axes,
        values=json.dumps(values, ensure_ascii=False),
        x_ticks=[x for x in x_ticks if axes.x_low <= x <= axes.x_high],
        y_ticks=nice_ticks(axes.y_low, axes.y_high),
        bound=_bound(chart, axes),
        best=next(iter(best), None),
    )


def _known(points: Sequence[Point]) -> list[tuple[float, float]]:
    return [(x, y) for x, raw in points if (y := clean(raw)) is not None]


def _axes_of(chart: Chart) -> _Axes:
    """Room for all values and the bound, on round numbers; from zero where nothing is below it."""
    known = [point for series in chart.series for point in _known(series.points)]
    xs, ys = [x for x, _ in known], [y for _, y in known]
    if chart.bound is not None:
        ys.append(chart.bound.value)
    low, high = min(ys), max(ys)
    if low >= -1e-3 * abs(high):
        low = 0.0
    ticks = nice_ticks(low, high)
    x_low, x_high = min(xs), max(xs)
    if x_low > 0 and x_low <= 0.1 * x_high:
        x_low = 0.0
    return _Axes(x_low, x_high if x_high > x_low else x_low + 1.0, ticks[0], ticks[-1])


def _bound(chart: Chart, axes: _Axes) -> dict[str, Any] | None:
    """Where the bound and its name lie."""
    if chart.bound is None:
        return None
    y = axes.y(chart.bound.value)
    below = float(y) < axes.top + 14
    middle = float(y) + (10 if below else -8)
    ends = [axes.y(known[-1][1]) for s in chart.series if (known := _known(s.points))]
    # At the right, where the curves end, unless one ends in the very place.
    is_free = all(abs(float(end) - middle) > 14 for end in ends)
    return {"y": y, "dy": "1.1em" if below else "-4", "at_end": is_free}


def thinned(points: Sequence[Point], limit: int = _MAX_POINTS) -> tuple[tuple[Point, ...], int]:
    """At most `limit` points, each the mean of as many neighbors; and how many those are."""
    size = max(ceil(len(points) / limit), 1)
    means: list[Point] = []
    for start in range(0, len(points), size):
        group = points[start : start + size]
        values = [y for _, y in _known(group)]
        means.append((group[-1][0], sum(values) / len(values) if values else None))
    return tuple(means), size


def smoothed(points: Sequence[Point]) -> tuple[Point, ...]:
    """Exponential mean over about a twentieth of the points, without a bias at the start."""
    keep = 1.0 - 1.0 / max(len(points) / 20, 1.0)
    mean, weight = 0.0, 0.0
    smooth: list[Point] = []
    for x, raw in points:
        y = clean(raw)
        if y is not None:
            mean, weight = keep * mean + (1 - keep) * y, keep * weight + (1 - keep)
        smooth.append((x, mean / weight if y is not None else None))
    return tuple(smooth)


# --- other drawings


@dataclass(frozen=True)
class Interval:
    """A value with its interval, where there is one."""

    value: float
    ends: tuple[float, float] | None = None

    @property
    def low(self) -> float:
        """The lower end, or the value."""
        return self.ends[0] if self.ends else self.value

    @property
    def high(self) -> float:
        """The upper end, or the value."""
        return self.ends[1] if self.ends else self.value


def interval_strip(before: Interval | None, after: Interval | None, highest: float) -> Markup:
    """Two values with their intervals on one line from 0 to `highest`; the second stands out."""

    def at(value: float) -> str:
        return f"{min(max(100.0 * value / (highest or 1.0), 0.0), 100.0):.2f}%"

    is_wide = any(item is not None and item.high > item.low for item in (before, after))
    return _draw("interval_strip", before=before, after=after, at=at, is_wide=is_wide)


@dataclass(frozen=True)
class Dot:
    """One point of a scatter; `kind` is `main`, `best` or `faint`."""

    name: str
    x: float
    y: float
    kind: str = "main"


def scatter(title: str, x_name: str, y_name: str, dots: Sequence[Dot]) -> Markup:
    """Named points, as one `<svg>` element; an empty text where there are none."""
    if not dots:
        return Markup("")
    x_ticks = nice_ticks(min(d.x for d in dots), max(d.x for d in dots), 5)
    y_ticks = nice_ticks(min(d.y for d in dots), max(d.y for d in dots))
    axes = _Axes(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    return _draw(
        "scatter",
        title=title,
        x_name=x_name,
        y_name=y_name,
        dots=dots,
        axes=axes,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
    )


def histogram(label: str, edges: Sequence[float], counts: Sequence[int]) -> Markup:
    """Bars as an `<svg>` element; `label` describes them for screen readers.

    Args:
        edges: one more than `counts`.
    """
    ticks = nice_ticks(0.0, float(max(counts)))
    axes = _Axes(0.0, float(len(counts)), 0.0, ticks[-1])
    return _draw("histogram", label=label, edges=edges, counts=counts, axes=axes, ticks=ticks)


def latency_plot(result: "BenchmarkResult") -> str:
    """Median latency of each clip over its length, for one runtime folder or two, as an SVG file.

    A dot is a clip, a line a folder.
    """
    sides = [side for side in (result.record, result.record.other) if side is not None]
    return plot(
        [
            (
                side.runtime_dir or "",
                sorted(
                    (length, 1000 * percentile(times, 0.5))
                    for length, times in zip(result.lengths, calls, strict=True)
                ),
            )
            for side, calls in zip(sides, result.calls, strict=True)
        ]
    )


def plot(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    title: str = "Latency by clip length",
    units: tuple[str, str] = ("seconds of speech", "ms"),
) -> str:
    """Named points as an SVG file that needs nothing else; `units` are those of x and y."""
    x_ticks = nice_ticks(0.0, max(x for _, points in series for x, _ in points), 6)
    y_ticks = nice_ticks(0.0, max(y for _, points in series for _, y in points), 5)
    axes = _Axes(0.0, x_ticks[-1], 0.0, y_ticks[-1], 640, 360, left=64, top=44, side=20, below=40)
    return _draw(
        "plot",
        series=[Series(name, tuple(points), "marked") for name, points in series],
        title=title,
        axes=axes,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        units=units,
    )

"""Figures as SVG text, made of plain numbers: no drawing library, no style of its own.

Colors and fonts come from the page's style sheet through classes, so that one figure serves light
and dark. Every coordinate that is written is a finite number, whatever the values are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, isfinite, log10
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from moonshine_tune.core.statistics import percentile

if TYPE_CHECKING:
    # A report is also written where the benchmark's dependencies do not load.
    from moonshine_tune.evaluation.benchmark.run import BenchmarkResult

_MAX_POINTS = 300
# Beyond this a value is a fault of the run; drawn, it would flatten all the others.
_LARGEST = 1e12
# Room above a scatter for the name of its upright axis.
_NAME_ROOM = 16
# The plot of a benchmark is a file of its own. Its series can be told apart in black and white:
# the dots of the first are filled, those of the second are open.
_PLOT_COLORS = ("#1f6feb", "#d1570b", "#1a7f37")
_PLOT_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.title{font-size:14px;font-weight:600}"
    ".grid{stroke:#ddd}.axis{stroke:#666}.line{fill:none;opacity:.35}svg{background:#fff}"
)

Point = tuple[float, float | None]


def clean(value: object) -> float | None:
    """`value` where it is a number that can be shown, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # The order matters: an integer may be too large for a float.
    return float(value) if abs(value) <= _LARGEST and isfinite(value) else None


def nice_ticks(low: float, high: float, wanted: int = 4) -> tuple[float, ...]:
    """Round numbers (1, 2 or 5 times a power of ten) that cover `low` to `high`, at least two."""
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-30):
        high = low + (abs(low) or 1.0)
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** floor(log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return tuple(index * step for index in range(first, last + 1))


def tick_label(value: float) -> str:
    """A tick's number in as few characters as it needs."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.4g}k"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value + 0.0:.4g}"


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

    def grid(self, ticks: Sequence[float]) -> list[str]:
        """Horizontal lines with their numbers at the left."""
        parts = []
        for value in ticks:
            y = self.y(value)
            parts.append(
                f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{y}" y2="{y}"/>'
                f'<text class="tick" x="{self.left - 6}" y="{y}" dy="0.32em" text-anchor="end">'
                f"{tick_label(value)}</text>"
            )
        return parts

    def base(self, ticks: Sequence[float], name: str, *, marked: bool = True) -> list[str]:
        """The lower axis with its numbers and its name."""
        parts = []
        for value in ticks:
            x = self.x(value)
            if marked:
                parts.append(
                    f'<line class="axis" x1="{x}" x2="{x}" y1="{self.bottom}" '
                    f'y2="{self.bottom + 4}"/>'
                )
            parts.append(self.below_axis(value, x))
        return [
            *parts,
            f'<line class="axis" x1="{self.left}" x2="{self.right}" y1="{self.bottom}" '
            f'y2="{self.bottom}"/><text class="tick" x="{self.right}" y="{self.height - 3}" '
            f'text-anchor="end">{escape(name)}</text>',
        ]

    def below_axis(self, value: float, x: str, anchor: str = "middle") -> str:
        """A number below the lower axis."""
        return (
            f'<text class="tick" x="{x}" y="{self.bottom + 16}" text-anchor="{anchor}">'
            f"{tick_label(value)}</text>"
        )


def _coordinate(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _svg(parts: Sequence[str]) -> Markup:
    """The element of parts that are numbers, or texts that were escaped."""
    return Markup("".join([*parts, "</svg>"]))


# --- charts of a run


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        points: x and y, by rising x; a y of None breaks the line.
        style: `main`, `faint` (raw values behind a smoothed line) or `marked` (dots and a line).
    """

    name: str
    points: tuple[Point, ...]
    style: str = "main"


@dataclass(frozen=True)
class Bound:
    """A horizontal line that must not be crossed, or that is to be compared with."""

    name: str
    value: float


@dataclass(frozen=True)
class Chart:
    """One small chart. `best_x` marks the chosen step."""

    title: str
    unit: str
    series: tuple[Series, ...]
    bound: Bound | None = None
    best_x: float | None = None
    note: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(_values(series.points) for series in self.series)

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
        [s.name, [[x, y, float(axes.x(x)), float(axes.y(y))]
                  for x, y in s.points if clean(y) is not None and y is not None]]
        for s in chart.series
    ]  # fmt: skip
    x_ticks = nice_ticks(axes.x_low, axes.x_high, 5)
    return _svg(
        [
            f'<svg viewBox="0 0 {axes.width} {axes.height}" role="img" tabindex="0" class="chart" '
            f'aria-label="{escape(describe(chart))}" '
            f'data-points="{escape(json.dumps(values, ensure_ascii=False))}" '
            f'data-top="{axes.top}" data-bottom="{axes.bottom}">',
            *axes.grid(nice_ticks(axes.y_low, axes.y_high)),
            *axes.base([x for x in x_ticks if axes.x_low <= x <= axes.x_high], "step"),
            *_bound(chart, axes),
            *(line for series in chart.series for line in _line(series, axes)),
            *_best(chart, axes),
        ]
    )


def describe(chart: Chart) -> str:
    """The chart in one sentence, for screen readers."""
    parts = []
    for series in chart.series:
        if values := _values(series.points):
            parts.append(
                f"{series.name} from {values[0]:.4g} to {values[-1]:.4g}, "
                f"lowest {min(values):.4g}, highest {max(values):.4g}"
            )
    return f"{chart.title}: {'; '.join(parts)}"


def _values(points: Sequence[Point]) -> list[float]:
    return [y for _, raw in points if (y := clean(raw)) is not None]


def _axes_of(chart: Chart) -> _Axes:
    """Room for all values and the bound, on round numbers; from zero where nothing is below it."""
    xs = [x for series in chart.series for x, y in series.points if clean(y) is not None]
    ys = [y for series in chart.series for y in _values(series.points)]
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


def _bound(chart: Chart, axes: _Axes) -> list[str]:
    if chart.bound is None:
        return []
    y = axes.y(chart.bound.value)
    below = float(y) < axes.top + 14
    middle = float(y) + (10 if below else -8)
    ends = [axes.y(drawn[-1]) for series in chart.series if (drawn := _values(series.points))]
    # At the right, where the curves end, unless one ends in the very place.
    is_free = all(abs(float(end) - middle) > 14 for end in ends)
    x, anchor = (axes.right, "end") if is_free else (axes.left + 4, "start")
    return [
        f'<line class="bound" x1="{axes.left}" x2="{axes.right}" y1="{y}" y2="{y}"/>'
        f'<text class="bound-name" x="{x}" y="{y}" dy="{"1.1em" if below else "-4"}" '
        f'text-anchor="{anchor}">{escape(chart.bound.name)}</text>'
    ]


def _line(series: Series, axes: _Axes) -> list[str]:
    """The line, broken where values are missing; a value without neighbors becomes a dot."""
    parts = []
    for is_there, group in groupby(series.points, key=lambda point: clean(point[1]) is not None):
        if not is_there:
            continue
        drawn = [(axes.x(x), axes.y(y)) for x, y in group if y is not None]
        if len(drawn) > 1:
            path = " ".join(f"{x},{y}" for x, y in drawn)
            parts.append(f'<polyline class="line {escape(series.style)}" points="{path}"/>')
        if len(drawn) == 1 or series.style == "marked":
            parts += [
                f'<circle class="dot {escape(series.style)}" cx="{x}" cy="{y}" r="3.2"/>'
                for x, y in drawn
            ]
    return parts


def _best(chart: Chart, axes: _Axes) -> list[str]:
    """A ring around the chosen step's value on the last series."""
    for x, y in chart.series[-1].points:
        if x == chart.best_x and clean(y) is not None and y is not None:
            return [f'<circle class="best" cx="{axes.x(x)}" cy="{axes.y(y)}" r="6.5"/>']
    return []


def thinned(points: Sequence[Point], limit: int = _MAX_POINTS) -> tuple[tuple[Point, ...], int]:
    """At most `limit` points, each the mean of as many neighbors; and how many those are."""
    size = max(ceil(len(points) / limit), 1)
    means: list[Point] = []
    for start in range(0, len(points), size):
        group = points[start : start + size]
        values = _values(group)
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

    parts = ['<svg class="strip" width="100%" height="26" aria-hidden="true" focusable="false">']
    parts.append('<line class="grid" x1="0" x2="100%" y1="13" y2="13"/>')
    if before is not None and after is not None:
        parts.append(
            f'<line class="shift" x1="{at(before.value)}" x2="{at(after.value)}" y1="13" y2="13"/>'
        )
    has_width = any(item is not None and item.high > item.low for item in (before, after))
    heights = (8, 18) if has_width else (13, 13)
    for name, item, y in (("before", before, heights[0]), ("after", after, heights[1])):
        if item is not None:
            parts.append(
                f'<line class="{name}" x1="{at(item.low)}" x2="{at(item.high)}" '
                f'y1="{y}" y2="{y}"/>'
                f'<circle class="{name}" cx="{at(item.value)}" cy="{y}" r="4.2"/>'
            )
    return _svg(parts)


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
    parts = [
        f'<svg viewBox="0 {-_NAME_ROOM} {axes.width} {axes.height + _NAME_ROOM}" role="img" '
        f'class="scatter chart" aria-label="{escape(f"{title}: {len(dots)} points")}">',
        *axes.grid(y_ticks),
        *axes.base(x_ticks, x_name, marked=False),
        f'<text class="tick" x="{axes.left - 24}" y="-4">{escape(y_name)}</text>',
    ]
    for dot in dots:
        x, y = axes.x(dot.x), axes.y(dot.y)
        ring = f'<circle class="best" cx="{x}" cy="{y}" r="7"/>' if dot.kind == "best" else ""
        left = float(x) > axes.right - 30
        parts.append(
            f'{ring}<circle class="dot {escape(dot.kind)}" cx="{x}" cy="{y}" r="3.6">'
            f"<title>{escape(dot.name)}</title></circle>"
            f'<text class="dot-name" x="{x}" y="{y}" dx="{-9 if left else 9}" dy="0.32em" '
            f'text-anchor="{"end" if left else "start"}">{escape(dot.name)}</text>'
        )
    return _svg(parts)


def histogram(label: str, edges: Sequence[float], counts: Sequence[int]) -> Markup:
    """Bars as an `<svg>` element; `label` describes them for screen readers.

    Args:
        edges: one more than `counts`.
    """
    ticks = nice_ticks(0.0, float(max(counts)))
    axes = _Axes(0.0, float(len(counts)), 0.0, ticks[-1])
    parts = [
        f'<svg viewBox="0 0 {axes.width} {axes.height}" role="img" aria-label="{escape(label)}">',
        *axes.grid(ticks),
    ]
    width = (axes.right - axes.left) / len(counts)
    for index, count in enumerate(counts):
        top = float(axes.y(count))
        parts.append(
            f'<rect class="pillar" x="{axes.left + index * width + 0.5:.1f}" y="{top}" '
            f'width="{max(width - 1, 0.5):.1f}" height="{axes.bottom - top:.1f}"/>'
        )
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        position = share * len(counts)
        parts.append(axes.below_axis(edges[round(position)], axes.x(position), anchor))
    return _svg(parts)


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
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {axes.width} {axes.height}" '
        f'role="img"><title>{escape(title)}</title><style>{_PLOT_STYLE}</style>'
        f'<text class="title" x="{axes.left}" y="20">{escape(title)}</text>',
        *axes.grid(y_ticks),
        *axes.base(x_ticks, units[0]),
        f'<text x="{axes.left - 8}" y="{axes.top - 10}" text-anchor="end">{escape(units[1])}'
        "</text>",
    ]
    for index, (name, points) in enumerate(series):
        color = _PLOT_COLORS[index % len(_PLOT_COLORS)]
        x, y = axes.width - 200, 20 + 16 * index
        parts += [
            f'<g stroke="{color}" fill="{"none" if index else color}">',
            *_line(Series(name, tuple(points), "marked"), axes),
            f'<circle cx="{x}" cy="{y - 4}" r="4"/></g>'
            f'<text x="{x + 10}" y="{y}">{escape(name)}</text>',
        ]
    return _svg(parts) + "\n"

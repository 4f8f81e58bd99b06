"""Figures as SVG text, made of plain numbers: no drawing library, no style of its own.

Colours and fonts come from the page's style sheet through classes, so that one figure serves light
and dark. Every coordinate that is written is a finite number, whatever comes in.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, isfinite, log10

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 208
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 34
# Room above a scatter for what its upright axis is called.
_NAME = 16
_MAX_POINTS = 300
# Beyond this a value is a fault of the run; drawn, it would flatten all the others.
_LARGEST = 1e12

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        points: x and y, by rising x; a y of None breaks the line.
        style: `main`, `faint` (raw values behind a smoothed line) or `marked` (dots and a line).
        spoken: whether the value is told when the pointer or an arrow key is over it.
    """

    name: str
    points: tuple[Point, ...]
    style: str = "main"
    spoken: bool = True


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


@dataclass(frozen=True)
class _Scale:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> str:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return _coordinate(_LEFT + share * (WIDTH - _LEFT - _RIGHT))

    def y(self, value: float) -> str:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return _coordinate(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM))


def _coordinate(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def clean(value: float | None) -> float | None:
    """`value` where it can be drawn, else None."""
    return value if value is not None and isfinite(value) and abs(value) <= _LARGEST else None


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


def line_chart(chart: Chart) -> Markup:
    """The chart as one `<svg>` element, or an empty text where there is nothing to draw.

    What a script needs to tell values is in `data-points`: `[[name, [[x, y, left, top], …]], …]`
    with `left` and `top` in the units of the view box.
    """
    if chart.is_empty:
        return Markup("")
    scale = _scale_of(chart)
    spoken = [
        [s.name, [[x, y, float(scale.x(x)), float(scale.y(y))]
                  for x, y in s.points if clean(y) is not None and y is not None]]
        for s in chart.series
        if s.spoken
    ]  # fmt: skip
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" class="chart" '
        f'aria-label="{escape(describe(chart))}" '
        f'data-points="{escape(json.dumps(spoken, ensure_ascii=False))}" '
        f'data-top="{_TOP}" data-bottom="{HEIGHT - _BOTTOM}">',
        *_axes(scale),
        *_bound(chart, scale),
        *(line for series in chart.series for line in _line(series, scale)),
        *_best(chart, scale),
        "</svg>",
    ]
    return Markup("".join(parts))  # texts are escaped above, the rest are numbers


def describe(chart: Chart) -> str:
    """The chart in one sentence, for those who do not see it."""
    said = []
    for series in chart.series:
        values = _values(series.points)
        if series.spoken and values:
            said.append(
                f"{series.name} from {values[0]:.4g} to {values[-1]:.4g}, "
                f"lowest {min(values):.4g}, highest {max(values):.4g}"
            )
    return f"{chart.title}: {'; '.join(said)}"


def _values(points: Sequence[Point]) -> list[float]:
    return [y for _, raw in points if (y := clean(raw)) is not None]


def _scale_of(chart: Chart) -> _Scale:
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
    return _Scale(x_low, x_high if x_high > x_low else x_low + 1.0, ticks[0], ticks[-1])


def _axes(scale: _Scale) -> list[str]:
    parts = []
    for value in nice_ticks(scale.y_low, scale.y_high):
        y = scale.y(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{y}" dy="0.32em" text-anchor="end">'
            f"{tick_label(value)}</text>"
        )
    bottom = HEIGHT - _BOTTOM
    for value in nice_ticks(scale.x_low, scale.x_high, 5):
        if not scale.x_low <= value <= scale.x_high:
            continue
        parts.append(
            f'<line class="axis" x1="{scale.x(value)}" x2="{scale.x(value)}" y1="{bottom}" '
            f'y2="{bottom + 4}"/><text class="tick" x="{scale.x(value)}" y="{bottom + 16}" '
            f'text-anchor="middle">{tick_label(value)}</text>'
        )
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>'
        f'<text class="tick" x="{WIDTH - _RIGHT}" y="{HEIGHT - 3}" text-anchor="end">step</text>'
    )
    return parts


def _bound(chart: Chart, scale: _Scale) -> list[str]:
    if chart.bound is None:
        return []
    y = scale.y(chart.bound.value)
    below = float(y) < _TOP + 14
    middle = float(y) + (10 if below else -8)
    ends = [scale.y(drawn[-1]) for series in chart.series if (drawn := _values(series.points))]
    # At the right, where the curves end, unless one ends in the very place.
    is_free = all(abs(float(end) - middle) > 14 for end in ends)
    x, anchor = (WIDTH - _RIGHT, "end") if is_free else (_LEFT + 4, "start")
    return [
        f'<line class="bound" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text class="bound-name" x="{x}" y="{y}" dy="{"1.1em" if below else "-4"}" '
        f'text-anchor="{anchor}">{escape(chart.bound.name)}</text>'
    ]


def _line(series: Series, scale: _Scale) -> list[str]:
    """The line, broken where values are missing; a value without neighbours becomes a dot."""
    parts = []
    for is_there, group in groupby(series.points, key=lambda point: clean(point[1]) is not None):
        if not is_there:
            continue
        drawn = [(scale.x(x), scale.y(y)) for x, y in group if y is not None]
        if len(drawn) > 1:
            path = " ".join(f"{x},{y}" for x, y in drawn)
            parts.append(f'<polyline class="line {escape(series.style)}" points="{path}"/>')
        if len(drawn) == 1 or series.style == "marked":
            parts += [
                f'<circle class="dot {escape(series.style)}" cx="{x}" cy="{y}" r="3.2"/>'
                for x, y in drawn
            ]
    return parts


def _best(chart: Chart, scale: _Scale) -> list[str]:
    """A ring around the chosen step's value on the last series."""
    for x, y in chart.series[-1].points:
        if x == chart.best_x and clean(y) is not None and y is not None:
            return [f'<circle class="best" cx="{scale.x(x)}" cy="{scale.y(y)}" r="6.5"/>']
    return []


def thinned(points: Sequence[Point], limit: int = _MAX_POINTS) -> tuple[tuple[Point, ...], int]:
    """At most `limit` points, each the mean of as many neighbours; and how many those are."""
    size = max(ceil(len(points) / limit), 1)
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    found: list[Point] = []
    for group in groups:
        values = _values(group)
        found.append((group[-1][0], sum(values) / len(values) if values else None))
    return tuple(found), size


def smoothed(points: Sequence[Point]) -> tuple[Point, ...]:
    """Exponential mean over about a twentieth of the points, without a bias at the start."""
    keep = 1.0 - 1.0 / max(len(points) / 20, 1.0)
    mean, weight = 0.0, 0.0
    found: list[Point] = []
    for x, raw in points:
        y = clean(raw)
        if y is not None:
            mean, weight = keep * mean + (1 - keep) * y, keep * weight + (1 - keep)
        found.append((x, mean / weight if y is not None else None))
    return tuple(found)


@dataclass(frozen=True)
class Interval:
    """A value with its interval; without one, `low` and `high` are the value."""

    value: float
    low: float
    high: float


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
    parts.append("</svg>")
    return Markup("".join(parts))  # numbers only


@dataclass(frozen=True)
class Dot:
    """One point of a scatter; `kind` is `main`, `best` or `faint`."""

    name: str
    x: float
    y: float
    kind: str = "main"


def scatter(title: str, x_name: str, y_name: str, dots: Sequence[Dot]) -> Markup:
    """Named points, as one `<svg>` element; an empty text where there are none to draw."""
    known = [d for d in dots if clean(d.x) is not None and clean(d.y) is not None]
    if not known:
        return Markup("")
    x_ticks = nice_ticks(min(d.x for d in known), max(d.x for d in known), 5)
    y_ticks = nice_ticks(min(d.y for d in known), max(d.y for d in known))
    scale = _Scale(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    bottom = HEIGHT - _BOTTOM
    parts = [
        f'<svg viewBox="0 {-_NAME} {WIDTH} {HEIGHT + _NAME}" role="img" class="scatter chart" '
        f'aria-label="{escape(f"{title}: {len(known)} points")}">'
    ]
    for value in y_ticks:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{scale.y(value)}" '
            f'y2="{scale.y(value)}"/><text class="tick" x="{_LEFT - 6}" y="{scale.y(value)}" '
            f'dy="0.32em" text-anchor="end">{tick_label(value)}</text>'
        )
    for value in x_ticks:
        parts.append(
            f'<text class="tick" x="{scale.x(value)}" y="{bottom + 16}" '
            f'text-anchor="middle">{tick_label(value)}</text>'
        )
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>'
        f'<text class="tick" x="{WIDTH - _RIGHT}" y="{HEIGHT - 3}" text-anchor="end">'
        f'{escape(x_name)}</text><text class="tick" x="{_LEFT - 24}" y="-4">'
        f"{escape(y_name)}</text>"
    )
    for dot in known:
        x, y = scale.x(dot.x), scale.y(dot.y)
        ring = f'<circle class="best" cx="{x}" cy="{y}" r="7"/>' if dot.kind == "best" else ""
        left = float(x) > WIDTH - _RIGHT - 30
        parts.append(
            f'{ring}<circle class="dot {escape(dot.kind)}" cx="{x}" cy="{y}" r="3.6">'
            f"<title>{escape(dot.name)}</title></circle>"
            f'<text class="dot-name" x="{x}" y="{y}" dx="{-9 if left else 9}" dy="0.32em" '
            f'text-anchor="{"end" if left else "start"}">{escape(dot.name)}</text>'
        )
    parts.append("</svg>")
    return Markup("".join(parts))  # texts are escaped above, the rest are numbers

"""Latency by clip length as one SVG file that needs nothing else: a dot a clip, a line a folder."""

from collections.abc import Sequence

from markupsafe import escape

from moonshine_tune.core.statistics import percentile
from moonshine_tune.evaluation.benchmark.run import BenchmarkResult
from moonshine_tune.report.figures import nice_ticks, tick_label

WIDTH, HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 44, 48
# Told apart in black and white too: the first is filled, the second is open.
_COLOURS = ("#1f6feb", "#d1570b", "#1a7f37")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.t{font-size:14px;font-weight:600}"
    ".g{stroke:#ddd}.a{stroke:#666}svg{background:#fff}"
)
Point = tuple[float, float]


def latency_plot(result: BenchmarkResult) -> str:
    """Median latency of each clip over its length, for one folder or two."""
    sides = [result.this] + ([result.other] if result.other else [])
    series = [
        (
            side.runtime_dir.absolute().name,
            sorted(
                (length, 1000 * percentile(calls, 0.5))
                for length, calls in zip(result.lengths, side.calls, strict=True)
            ),
        )
        for side in sides
    ]
    return draw(series)


def draw(
    series: Sequence[tuple[str, Sequence[Point]]],
    title: str = "Latency by clip length",
    units: tuple[str, str] = ("seconds of speech", "ms"),
) -> str:
    """A plot of named points; `units` are those of x and y."""
    x_ticks = nice_ticks(0.0, max(x for _, points in series for x, _ in points), 6)
    y_ticks = nice_ticks(0.0, max(y for _, points in series for _, y in points), 5)

    def place(x: float, y: float) -> Point:
        return (
            round(_LEFT + (WIDTH - _LEFT - _RIGHT) * x / x_ticks[-1], 1),
            round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * y / y_ticks[-1], 1),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<text class="t" x="{_LEFT}" y="20">{escape(title)}</text>',
    ]
    for value in y_ticks:
        y = place(0, value)[1]
        parts.append(
            f'<line class="g" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text x="{_LEFT - 8}" y="{y}" dy="0.32em" text-anchor="end">'
            f"{tick_label(value)}</text>"
        )
    bottom = HEIGHT - _BOTTOM
    for value in x_ticks:
        x = place(value, 0)[0]
        parts.append(
            f'<line class="a" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 5}"/>'
            f'<text x="{x}" y="{bottom + 20}" text-anchor="middle">{tick_label(value)}</text>'
        )
    parts.append(
        f'<line class="a" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>'
        f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(units[0])}</text>'
        f'<text x="{_LEFT - 8}" y="{_TOP - 10}" text-anchor="end">{escape(units[1])}</text>'
    )
    for index, (name, points) in enumerate(series):
        colour = _COLOURS[index % len(_COLOURS)]
        fill = colour if index == 0 else "none"
        drawn = [place(x, y) for x, y in points]
        path = " ".join(f"{x},{y}" for x, y in drawn)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" opacity="0.35"/>')
        parts += [
            f'<circle cx="{x}" cy="{y}" r="3.5" fill="{fill}" stroke="{colour}"/>' for x, y in drawn
        ]
        y = 20 + 16 * index
        parts.append(
            f'<circle cx="{WIDTH - 200}" cy="{y - 4}" r="4" fill="{fill}" stroke="{colour}"/>'
            f'<text x="{WIDTH - 190}" y="{y}">{escape(name)}</text>'
        )
    return "".join([*parts, "</svg>\n"])

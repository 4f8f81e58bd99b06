"""The learning curves of a run, from the lines of metrics.jsonl."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from moonshine_tune.report.figures import Bound, Chart, Point, Series, clean, smoothed, thinned
from moonshine_tune.report.reading import RunPart, mapping, number
from moonshine_tune.report.tables import Cell, Column, Table, number_cell

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Curves:
    """What the section on learning shows.

    Attributes:
        charts: those that have values.
        strengths: how the strength of the adapter was chosen; None where it was not.
        absent: names of the charts that have no values.
        num_not_finite: values that were NaN or infinite, and are gaps in the lines.
    """

    charts: tuple[Chart, ...]
    strengths: Table | None
    absent: tuple[str, ...]
    num_not_finite: int


def learning_curves(run: RunPart) -> Curves:
    """All charts of a run; a run without metrics has none."""
    settings = mapping(run.record.get("settings"))
    known = [line for line in run.metrics if clean(number(line.get("step"))) is not None]
    lines = sorted(known, key=lambda line: float(line["step"]))
    steps = [line for line in lines if "step_seconds" in line or "loss" in line]
    scores = [line for line in lines if "dev_wer" in line]
    best = number(run.selection.get("step"))
    candidates = (
        _dev(scores, best),
        _scores("Canary WER", "%", scores, "canary_wer", _canary_bound(settings, scores), best),
        _noisy("Training loss", "", steps, _field("loss")),
        _noisy("Replay divergence", "KL", steps, _field("replay_kl")),
        _plain("Learning rate", "", steps, _field("learning_rate")),
        _noisy("Gradient norm", "", steps, _field("gradient_norm"), _clip_bound(settings)),
        _memory(steps),
        _noisy("Speed", "steps/s", steps, _speed),
    )
    return Curves(
        charts=tuple(chart for chart in candidates if not chart.is_empty),
        strengths=_strengths(lines, run.selection),
        absent=tuple(chart.title for chart in candidates if chart.is_empty),
        num_not_finite=sum(_num_not_finite(line) for line in run.metrics),
    )


def _num_not_finite(line: Record) -> int:
    return sum(isinstance(value, float) and clean(value) is None for value in line.values())


def _field(name: str) -> Callable[[Record], float | None]:
    return lambda line: clean(number(line.get(name)))


def _speed(line: Record) -> float | None:
    seconds = clean(number(line.get("step_seconds")))
    return 1.0 / seconds if seconds is not None and seconds > 1e-9 else None


def _points(lines: Sequence[Record], value: Callable[[Record], float | None]) -> list[Point]:
    return [(float(line["step"]), value(line)) for line in lines]


def _dev(lines: Sequence[Record], best: float | None) -> Chart:
    """Dev as recorded, and in grey with every clip changed, where a run scores that too."""
    chart = _scores("Dev WER", "%", lines, "dev_wer", None, best)
    changed = tuple(_points(lines, _field("dev_augmented_wer")))
    if all(value is None for _, value in changed):
        return chart
    (own,) = chart.series
    series = (Series("augmented", changed, "second"), replace(own, name="as recorded"))
    return replace(chart, series=series, note="grey: every clip of dev augmented")


def _scores(
    title: str,
    unit: str,
    lines: Sequence[Record],
    name: str,
    bound: Bound | None,
    best: float | None,
) -> Chart:
    points = tuple(_points(lines, _field(name)))
    return Chart(title, unit, (Series(title, points, "marked"),), bound, best)


def _noisy(
    title: str,
    unit: str,
    lines: Sequence[Record],
    value: Callable[[Record], float | None],
    bound: Bound | None = None,
) -> Chart:
    """Raw values in the back, their running mean in front."""
    points, size = thinned(_points(lines, value))
    if len(points) < 10:
        return Chart(title, unit, (Series(title, points),), bound, note=_mean_note(size))
    front = Series("mean", smoothed(points))
    series = (Series("value", points, "faint"), front)
    return Chart(title, unit, series, bound, note=_mean_note(size))


def _plain(
    title: str, unit: str, lines: Sequence[Record], value: Callable[[Record], float | None]
) -> Chart:
    points, size = thinned(_points(lines, value))
    return Chart(title, unit, (Series(title, points),), note=_mean_note(size))


def _memory(lines: Sequence[Record]) -> Chart:
    resident, size = thinned(_points(lines, _field("memory_resident_mb")))
    device, _ = thinned(_points(lines, _field("memory_device_mb")))
    series = [Series("process", resident)]
    if any(y for _, y in device):
        series.insert(0, Series("device", device, "second"))
    return Chart("Memory", "MB", tuple(series), note=_mean_note(size))


def _mean_note(size: int) -> str:
    return f"each point is the mean of {size} steps" if size > 1 else ""


def _canary_bound(settings: Record, scores: Sequence[Record]) -> Bound | None:
    points = number(mapping(settings.get("select")).get("canary_bound"))
    at_start = [line for line in scores if line.get("step") == 0]
    base = clean(number(at_start[0].get("canary_wer"))) if at_start else None
    return None if points is None or base is None else Bound("bound", base + points)


def _clip_bound(settings: Record) -> Bound | None:
    norm = clean(number(mapping(settings.get("train")).get("clip_norm")))
    return None if norm is None else Bound("clipped above", norm)


def _strengths(lines: Sequence[Record], selection: Record) -> Table | None:
    """How strong the best adapter was made: a table of what was tried."""
    tried = [line for line in lines if number(line.get("strength")) is not None]
    if not tried:
        return None
    chosen = number(selection.get("strength"))
    rows = []
    for line in tried:
        strength = number(line.get("strength"))
        mark = "chosen" if strength == chosen else ""
        rows.append(
            (
                Cell(f"{strength:g}", sort=strength, detail=mark),
                number_cell(number(line.get("strength_dev_wer"))),
                number_cell(number(line.get("strength_canary_wer"))),
            )
        )
    columns = (Column("Strength"), Column("Dev WER", "number"), Column("Canary WER", "number"))
    return Table("Strength of the adapter", columns, tuple(rows), sortable=False)

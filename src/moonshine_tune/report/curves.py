"""The learning curves of a run, from the lines of metrics.jsonl."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from moonshine_tune.report.cells import clean, short
from moonshine_tune.report.figures import Bound, Chart, Point, Series, smoothed, thinned
from moonshine_tune.report.reading import RunPart
from moonshine_tune.runs.records import CurveRecord

_Line = Mapping[str, Any]
_Value = Callable[[_Line], float | None]


@dataclass(frozen=True)
class Curves:
    """Content of the section on learning.

    Attributes:
        charts: those that have values.
        strengths: a line for each strength of the adapter that was tried.
        absent: names of the charts that have no values.
        num_not_finite: values that were NaN or infinite, and are gaps in the lines.
    """

    charts: tuple[Chart, ...]
    strengths: tuple[_Line, ...]
    chosen_strength: float | None
    absent: tuple[str, ...]
    num_not_finite: int


def _by_strength(lines: Sequence[_Line]) -> tuple[_Line, ...]:
    """Drift and scores of one strength are measured, and logged, one after the other."""
    by_strength: dict[float, _Line] = {}
    for line in lines:
        strength = clean(line.get("strength"))
        if strength is not None:
            by_strength[strength] = {**by_strength.get(strength, {}), **line}
    return tuple(by_strength.values())


def learning_curves(run: RunPart) -> Curves:
    """All charts of a run; a run without metrics has none."""
    known = [line for line in run.metrics if clean(line.get("step")) is not None]
    lines = sorted(known, key=lambda line: float(line["step"]))
    steps = [line for line in lines if "step_seconds" in line or "loss" in line]
    scores = [line for line in lines if "dev_wer" in line]
    best = clean(run.selection.step)
    clip_norm = clean(run.setting("train.clip_norm"))
    clipped = None if clip_norm is None else Bound("clipped above", clip_norm)
    candidates = (
        _dev(scores, best),
        _scores(_canary_title(run), scores, "canary_wer", best, _canary_bound(run, scores)),
        _trend("Training loss", "", steps, _field("loss")),
        _trend("Replay divergence", "KL", steps, _field("replay_kl")),
        _trend("Learning rate", "", steps, _field("learning_rate"), smooth=False),
        _trend("Gradient norm", "", steps, _field("gradient_norm"), clipped),
        _memory(steps),
        _trend("Speed", "steps/s", steps, _speed),
    )
    return Curves(
        charts=tuple(chart for chart in candidates if not chart.is_empty),
        strengths=_by_strength(lines),
        chosen_strength=clean(run.selection.strength),
        absent=tuple(chart.title for chart in candidates if chart.is_empty),
        num_not_finite=sum(
            isinstance(value, float) and clean(value) is None
            for line in run.metrics
            for value in line.values()
        ),
    )


def curve_of_recordings(record: CurveRecord) -> Curves:
    """WER over the number of recordings: each training, what is expected, and its interval."""
    measured = [(float(item.recordings), float(item.wer)) for item in record.points]
    if record.base_wer is not None and measured:
        measured.append((0.0, float(record.base_wer)))
    chart = Chart(
        "WER by number of recordings",
        "%",
        (
            Series("lowest", tuple((p.recordings, p.low) for p in record.line), "faint"),
            Series("highest", tuple((p.recordings, p.high) for p in record.line), "faint"),
            Series("expected", tuple((p.recordings, p.wer) for p in record.line)),
            Series("trained", tuple(sorted(measured)), "dots"),
        ),
        note="; ".join(record.sentences) + ". Faint lines: the 80 % interval.",
        x_name="recordings",
    )
    return Curves(() if chart.is_empty else (chart,), (), None, (), 0)


def _field(name: str) -> _Value:
    return lambda line: clean(line.get(name))


def _speed(line: _Line) -> float | None:
    seconds = clean(line.get("step_seconds"))
    return 1.0 / seconds if seconds is not None and seconds > 1e-9 else None


def _points(lines: Sequence[_Line], value: _Value) -> list[Point]:
    return [(float(line["step"]), value(line)) for line in lines]


def _dev(lines: Sequence[_Line], best: float | None) -> Chart:
    """Dev as recorded, and in gray with every clip augmented, where a run scores that too."""
    chart = _scores("Dev WER", lines, "dev_wer", best)
    augmented = tuple(_points(lines, _field("dev_augmented_wer")))
    if all(value is None for _, value in augmented):
        return chart
    (recorded,) = chart.series
    series = (Series("augmented", augmented, "second"), replace(recorded, name="as recorded"))
    return replace(chart, series=series, note="gray: every clip of dev augmented")


def _scores(
    title: str, lines: Sequence[_Line], name: str, best: float | None, bound: Bound | None = None
) -> Chart:
    series = Series(title, tuple(_points(lines, _field(name))), "marked")
    return Chart(title, "%", (series,), bound, best)


def _canary_title(run: RunPart) -> str:
    name = run.record.result.baseline.canary or run.selection.canary
    return f"Canary WER ({short(name, 80)})" if name else "Canary WER"


def _canary_bound(run: RunPart, scores: Sequence[_Line]) -> Bound | None:
    points = clean(run.setting("select.canary_bound"))
    base = next((clean(line.get("canary_wer")) for line in scores if line.get("step") == 0), None)
    return None if points is None or base is None else Bound("bound", base + points)


def _trend(
    title: str,
    unit: str,
    lines: Sequence[_Line],
    value: _Value,
    bound: Bound | None = None,
    *,
    smooth: bool = True,
) -> Chart:
    """The values; where they are many and noisy, in the back, with their running mean in front."""
    points, size = thinned(_points(lines, value))
    series: tuple[Series, ...] = (Series(title, points),)
    if smooth and len(points) >= 10:
        series = (Series("value", points, "faint"), Series("mean", smoothed(points)))
    return Chart(title, unit, series, bound, note=_mean_note(size))


def _memory(lines: Sequence[_Line]) -> Chart:
    resident, size = thinned(_points(lines, _field("memory_resident_mb")))
    device, _ = thinned(_points(lines, _field("memory_device_mb")))
    series = [Series("process", resident)]
    if any(y for _, y in device):
        series.insert(0, Series("device", device, "second"))
    return Chart("Memory", "MB", tuple(series), note=_mean_note(size))


def _mean_note(size: int) -> str:
    return f"each point is the mean of {size} steps" if size > 1 else ""

"""A benchmark: one runtime folder against another, and latency by clip length."""

from dataclasses import dataclass

from moonshine_tune.report.figures import Interval, clean, interval_strip
from moonshine_tune.report.reading import ReportInput
from moonshine_tune.report.tables import (
    Cell,
    Column,
    Table,
    interval_text,
    number_cell,
    short,
)
from moonshine_tune.runs.records import (
    BandRecord,
    BenchmarkRecord,
    MeasurementRecord,
    RatioRecord,
    ScoreRecord,
    StreamRecord,
)


def speed_tables(report_input: ReportInput) -> tuple[Table, ...]:
    """What a benchmark measured; no table where there is none."""
    this = report_input.benchmark
    if this is None or this.is_empty:
        return ()
    tables = (_figures_table(this, this.other), _length_table(this, this.other))
    return tuple(table for table in tables if table is not None)


@dataclass(frozen=True)
class _Figure:
    """One measured figure; `ratio` is the key of its ratio in benchmark.json."""

    name: str
    value: float | None
    unit: str
    ratio: str = ""


def _figures(side: MeasurementRecord) -> tuple[_Figure, ...]:
    size, stream = clean(side.total_bytes), side.stream or StreamRecord()
    latency, score = side.latency_ms, side.wer or ScoreRecord()
    rows = (
        ("latency, median", latency.get("median"), "ms", "median"),
        ("latency, 95 %", latency.get("p95"), "ms", "p95"),
        ("latency, longest", latency.get("max"), "ms", ""),
        ("end of speech to text, median", stream.final_ms.get("median"), "ms", "stream"),
        ("loading", side.load_ms.get("median"), "ms", "load"),
        ("real-time factor", side.rtf, "", ""),
        ("peak memory", side.memory_mb.get("peak"), "MB", "peak_memory"),
        ("files", None if size is None else size / 1e6, "MB", "size"),
        ("WER", score.wer, "%", ""),
    )
    return tuple(_Figure(name, clean(value), unit, ratio) for name, value, unit, ratio in rows)


def _figures_table(this: BenchmarkRecord, other: MeasurementRecord | None) -> Table:
    """The figures of one folder, or of two with their ratios."""
    ratios = this.ratios or {}
    theirs = _figures(other) if other else (None,) * len(_figures(this))
    rows = []
    for mine, their in zip(_figures(this), theirs, strict=True):
        if mine.value is None:
            continue
        row = [Cell(mine.name)]
        row += [_figure_cell(their)] if their else []
        row += [_figure_cell(mine)]
        row += [_ratio_cell(ratios.get(mine.ratio, RatioRecord()))] if their else []
        rows.append(tuple(row))
    columns = [Column("What")]
    columns += [Column("Base", "number")] if other else []
    columns += [Column("Adapted" if other else "Measured", "number")]
    columns += [Column("Ratio", "number")] if other else []
    chip = short(str(this.machine.get("chip") or "this machine"), 80)
    note = f"{this.clips} clips, {this.rounds} calls each, on {chip}."
    note += " Below a ratio its 95 % interval." if other else ""
    return Table("Speed, memory and size", tuple(columns), tuple(rows), note, sortable=False)


def _figure_cell(figure: _Figure) -> Cell:
    if figure.value is None:
        return Cell("–", kind="number")
    size = abs(figure.value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if figure.unit else 4
    text = f"{figure.value:,.{digits}f} {figure.unit}".strip()
    return Cell(text, sort=figure.value, kind="number")


def _ratio_cell(ratio: RatioRecord) -> Cell:
    if clean(ratio.ratio) is None:
        return Cell("", kind="number")
    return number_cell(ratio.ratio, detail=interval_text(ratio.ci95))


def _length_table(this: BenchmarkRecord, other: MeasurementRecord | None) -> Table | None:
    """Latency of clips of about the same length."""
    theirs = {band.from_s: band for band in other.by_length} if other else {}
    pairs = [(theirs.get(band.from_s), band) for band in this.by_length]
    spans = [(_span(before), _span(after)) for before, after in pairs]
    highest = max((span.high for pair in spans for span in pair if span), default=None)
    if highest is None:
        return None
    rows = []
    for index, ((_, band), (before, after)) in enumerate(zip(pairs, spans, strict=True)):
        low, high = clean(band.from_s) or 0.0, clean(band.to_s)
        name = f"{low:g} s or longer" if high is None else f"{low:g} to {high:g} s"
        row = [Cell(name, sort=float(index)), number_cell(band.clips, 0)]
        row += [_span_cell(before)] if other else []
        row += [_span_cell(after), Cell("", figure=interval_strip(before, after, highest))]
        rows.append(tuple(row))
    columns = [Column("Clip length"), Column("Clips", "number aside")]
    columns += [Column("Base, ms", "number")] if other else []
    columns += [Column("Adapted, ms" if other else "ms", "number")]
    columns += [Column(f"0 to {highest:,.0f} ms", "figure")]
    note = "Median, and the 95th percentile below it; the line goes from one to the other."
    return Table("Latency by length of the clip", tuple(columns), tuple(rows), note, sortable=False)


def _span(band: BandRecord | None) -> Interval | None:
    """From the median to the 95th percentile."""
    if band is None:
        return None
    median, p95 = clean(band.latency_ms.get("median")), clean(band.latency_ms.get("p95"))
    if median is None or p95 is None:
        return None
    return Interval(median, (median, max(p95, median)))


def _span_cell(span: Interval | None) -> Cell:
    if span is None:
        return Cell("–", kind="number")
    return number_cell(span.value, 0, f"{span.high:,.0f}")

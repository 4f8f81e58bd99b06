"""What a plan adds to a report: its phases, the trials of a search, the speed of its files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from moonshine_tune.report.figures import Dot, Interval, clean, interval_strip, scatter
from moonshine_tune.report.reading import ReportInput, SearchPart, mapping, number, sequence
from moonshine_tune.report.tables import (
    Cell,
    Column,
    Table,
    change_cell,
    duration_text,
    number_cell,
    short,
    text_cell,
)

_MAX_TRIALS = 200
_STATE_KINDS = {"done": "better", "failed": "worse"}


@dataclass(frozen=True)
class Trials:
    """A search: a table, a drawing of dev WER against the canary, and how it was chosen."""

    table: Table | None
    drawing: Markup
    reasons: tuple[str, ...]


def phase_table(report_input: ReportInput) -> Table | None:
    """The phases of a plan: where each stands, its gates, its time."""
    rows = []
    for place, item in enumerate(map(mapping, sequence(report_input.demo.get("phases")))):
        gates = [mapping(gate) for gate in sequence(item.get("gates"))]
        holds = sum(gate.get("verdict") in ("passed", "not meaningful") for gate in gates)
        blind = sum(gate.get("verdict") == "not meaningful" for gate in gates)
        state = str(item.get("state", "–"))
        forced = "; ".join(str(text) for text in sequence(item.get("forced")))
        why = str(item.get("why") or "")
        told = "; ".join(
            text for text in (why, f"started although {forced}" if forced else "") if text
        )
        steps = ", ".join(str(mapping(step).get("name")) for step in sequence(item.get("steps")))
        rows.append(
            (
                Cell(short(str(item.get("name", "–")), 80), sort=float(place), detail=short(steps)),
                Cell(state, kind=_STATE_KINDS.get(state, ""), detail=short(told)),
                Cell(
                    f"{holds} of {len(gates)}",
                    sort=float(holds),
                    detail=f"{blind} not meaningful" if blind else "",
                    kind="number",
                ),
                _time_cell(number(item.get("seconds"))),
            )
        )
    if not rows:
        return None
    columns = (
        Column("Phase"),
        Column("State"),
        Column("Gates hold", "number"),
        Column("Time", "number"),
    )
    return Table("Phases", columns, tuple(rows), sortable=False)


def _time_cell(seconds: float | None) -> Cell:
    return Cell(duration_text(seconds), sort=seconds, kind="number")


def trials_of(report_input: ReportInput) -> Trials | None:
    """The search that the folder holds."""
    search = report_input.search
    if search is None or not (search.trials or search.record):
        return None
    best = _best_number(search)
    dots = []
    for trial in search.trials[:_MAX_TRIALS]:
        figures = mapping(trial.get("figures"))
        wer, lost = number(figures.get("dev_wer")), number(figures.get("canary_loss"))
        if trial.get("state") == "finished" and wer is not None and lost is not None:
            told = str(trial.get("number"))
            dots.append(Dot(told, wer, lost, "best" if told == str(best) else "main"))
    drawing = scatter("Trials", "dev WER, %", "canary, points lost", dots)
    return Trials(_trial_table(search, best), drawing, _reasons(report_input))


def _best_number(search: SearchPart) -> object:
    done = [
        (
            not mapping(trial.get("figures")).get("canary_held", True),
            number(mapping(trial.get("figures")).get("dev_wer")) or 0.0,
            str(trial.get("number")),
        )
        for trial in search.trials
        if trial.get("state") == "finished"
        and number(mapping(trial.get("figures")).get("dev_wer")) is not None
    ]
    return min(done)[2] if done else None


def _trial_table(search: SearchPart, best: object) -> Table | None:
    if not search.trials:
        return None
    names = list(dict.fromkeys(k for t in search.trials for k in mapping(t.get("params"))))[:12]
    columns = [Column("Trial"), Column("Dev WER", "number"), Column("Canary", "number")]
    columns += [Column("Train time", "number"), *(Column(short(name, 40)) for name in names)]
    rows = []
    for trial in search.trials[:_MAX_TRIALS]:
        figures, params = mapping(trial.get("figures")), mapping(trial.get("params"))
        told = str(trial.get("number", "–"))
        state = str(trial.get("state", "–"))
        detail = "the best" if told == str(best) else "" if state == "finished" else state
        rows.append(
            (
                Cell(told, sort=clean(number(trial.get("number"))), detail=short(detail, 60)),
                number_cell(clean(number(figures.get("dev_wer")))),
                change_cell(clean(number(figures.get("canary_loss")))),
                _time_cell(clean(number(figures.get("train_seconds")))),
                *(_param_cell(params.get(name)) for name in names),
            )
        )
    note = "Canary: points of WER that general speech lost; below zero it gained."
    return Table("Trials", tuple(columns), tuple(rows), note)


def _param_cell(value: object) -> Cell:
    figure = number(value)
    if figure is None:
        return text_cell("–" if value is None else value, "code")
    return Cell(f"{figure:.4g}", sort=figure, kind="code")


def _reasons(report_input: ReportInput) -> tuple[str, ...]:
    """Why a plan chose the trial that it chose."""
    for phase in mapping(report_input.demo.get("record")).values():
        choose = mapping(mapping(mapping(phase).get("steps")).get("choose"))
        reasons = sequence(mapping(choose.get("result")).get("reasons"))
        if reasons:
            return tuple(short(str(reason)) for reason in reasons[:12])
    return ()


def speed_tables(report_input: ReportInput) -> tuple[Table, ...]:
    """What a benchmark measured: the folder against the other one, and latency by clip length."""
    this, other = report_input.benchmark, mapping(report_input.benchmark.get("other"))
    if not this:
        return ()
    found = [_figures_table(this, other)]
    lengths = _length_table(this, other)
    return (*found, lengths) if lengths else tuple(found)


def _figures_table(this: Mapping[str, Any], other: Mapping[str, Any]) -> Table:
    ratios = mapping(this.get("ratios"))

    def figures(side: Mapping[str, Any]) -> dict[str, tuple[float | None, str]]:
        latency, load = mapping(side.get("latency_ms")), mapping(side.get("load_ms"))
        final = mapping(mapping(side.get("stream")).get("final_ms"))
        memory = mapping(side.get("memory_mb"))
        size = number(side.get("total_bytes"))
        return {
            "latency, median": (number(latency.get("median")), "ms"),
            "latency, 95 %": (number(latency.get("p95")), "ms"),
            "latency, longest": (number(latency.get("max")), "ms"),
            "end of speech to text, median": (number(final.get("median")), "ms"),
            "loading": (number(load.get("median")), "ms"),
            "real-time factor": (number(side.get("rtf")), ""),
            "peak memory": (number(memory.get("peak")), "MB"),
            "files": (None if size is None else size / 1e6, "MB"),
            "WER": (number(mapping(side.get("wer")).get("wer")), "%"),
        }

    keys = {"latency, median": "median", "latency, 95 %": "p95", "loading": "load",
            "peak memory": "peak_memory", "files": "size",
            "end of speech to text, median": "stream"}  # fmt: skip
    mine, theirs = figures(this), figures(other)
    rows = []
    for name, (value, unit) in mine.items():
        if clean(value) is None:
            continue
        row = [Cell(name)]
        row += [_measured(theirs[name][0], unit)] if other else []
        row += [_measured(value, unit)]
        row += [_ratio_cell(mapping(ratios.get(keys.get(name, ""))))] if other else []
        rows.append(tuple(row))
    columns = [Column("What")]
    columns += [Column("Base", "number")] if other else []
    columns += [Column("Adapted" if other else "Measured", "number")]
    columns += [Column("Ratio", "number")] if other else []
    clips, rounds = this.get("clips"), this.get("rounds")
    chip = short(str(mapping(this.get("machine")).get("chip") or "this machine"), 80)
    note = f"{clips} clips, {rounds} calls each, on {chip}. Below a ratio its 95 % interval."
    return Table("Speed, memory and size", tuple(columns), tuple(rows), note, sortable=False)


def _measured(value: float | None, unit: str) -> Cell:
    if value is None or clean(value) is None:
        return Cell("–", kind="number")
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if unit else 4
    return Cell(f"{value:,.{digits}f} {unit}".strip(), sort=value, kind="number")


def _ratio_cell(ratio: Mapping[str, Any]) -> Cell:
    value = clean(number(ratio.get("ratio")))
    if value is None:
        return Cell("", kind="number")
    ends = [end for item in sequence(ratio.get("ci95")) if (end := number(item)) is not None]
    detail = f"{ends[0]:.2f} to {ends[1]:.2f}" if len(ends) == 2 else ""
    return Cell(f"{value:.2f}", sort=value, detail=detail, kind="number")


def _length_table(this: Mapping[str, Any], other: Mapping[str, Any]) -> Table | None:
    bands = [mapping(item) for item in sequence(this.get("by_length"))]
    theirs = {str(mapping(b).get("from_s")): mapping(b) for b in sequence(other.get("by_length"))}
    spans = [s for item in (*bands, *theirs.values()) if (s := _span(item)) is not None]
    if not spans or not bands:
        return None
    highest = max(span.high for span in spans)
    rows = []
    for place, band in enumerate(bands):
        low, high = number(band.get("from_s")) or 0.0, number(band.get("to_s"))
        name = f"{low:g} s or longer" if high is None else f"{low:g} to {high:g} s"
        before, after = _span(theirs.get(str(band.get("from_s")), {})), _span(band)
        row = [Cell(name, sort=float(place)), number_cell(number(band.get("clips")), 0)]
        row += [_span_cell(before)] if other else []
        row += [_span_cell(after), Cell("", figure=interval_strip(before, after, highest))]
        rows.append(tuple(row))
    columns = [Column("Clip length"), Column("Clips", "number aside")]
    columns += [Column("Base, ms", "number")] if other else []
    columns += [Column("Adapted, ms" if other else "ms", "number")]
    columns += [Column(f"0 to {highest:,.0f} ms", "figure")]
    note = "Median, and the 95 % mark below it; the line goes from one to the other."
    return Table("Latency by length of the clip", tuple(columns), tuple(rows), note, sortable=False)


def _span(band: Mapping[str, Any]) -> Interval | None:
    latency = mapping(band.get("latency_ms"))
    median, p95 = clean(number(latency.get("median"))), clean(number(latency.get("p95")))
    if median is None or p95 is None:
        return None
    return Interval(median, median, max(p95, median))


def _span_cell(span: Interval | None) -> Cell:
    if span is None:
        return Cell("–", kind="number")
    return Cell(f"{span.value:,.0f}", sort=span.value, detail=f"{span.high:,.0f}", kind="number")

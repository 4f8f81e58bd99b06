"""The result in one look: scores with intervals, the figures above them, and the gates."""

from collections.abc import Sequence
from dataclasses import dataclass

from moonshine_tune.report.contrasts import Contrast, Rate
from moonshine_tune.report.figures import clean, interval_strip
from moonshine_tune.report.gates import Gate
from moonshine_tune.report.reading import (
    ReportInput,
    mapping,
    number,
)
from moonshine_tune.report.tables import (
    SET_NAMES,
    Cell,
    Column,
    Table,
    change_cell,
    duration_text,
    set_title,
    signed,
    text_cell,
)

# Small sets move by this much when a word or two is heard otherwise.
_LIKELY_POINTS = 1.0
_MAX_ROWS = 60


@dataclass(frozen=True)
class Tile:
    """A large figure: `before` is shown in front of it, smaller."""

    label: str
    figure: str
    unit: str = ""
    before: str = ""
    detail: str = ""
    kind: str = ""


def headline_table(rows: Sequence[Contrast]) -> Table | None:
    """Base against adapted with intervals, as numbers and drawn on one scale from zero."""
    rates = [rate for row in rows for rate in (row.before, row.after) if rate]
    if not rates:
        return None
    highest = max(max(rate.wer, rate.interval.high) for rate in rates)
    compared = any(row.before for row in rows)
    columns = [Column("Heard")]
    columns += [Column("Base", "number")] if compared else []
    columns += [Column("Adapted" if compared else "WER", "number")]
    columns += [Column("Change", "number")] if compared else []
    columns += [Column(f"0 to {highest:.0f} %", "figure")]
    lines = []
    for row in rows[:_MAX_ROWS]:
        strip = interval_strip(
            row.before.interval if row.before else None,
            row.after.interval if row.after else None,
            highest,
        )
        count = next((r.utterances for r in (row.after, row.before) if r and r.utterances), None)
        line = [Cell(set_title(row.set_name), detail=_where(row.backend, count))]
        line += [_rate_cell(row.before)] if compared else []
        line += [_rate_cell(row.after)]
        line += [_change_cell(row)] if compared else []
        lines.append((*line, Cell("", figure=strip)))
    note = (
        "Word error rate: wrong, missing and added words in percent of the words said. Lower is "
        "better. Below each number its 95 % interval, from resampling utterances"
    )
    note += "; below a change the interval of the paired difference." if compared else "."
    return Table("Word error rate, %", tuple(columns), tuple(lines), note, sortable=False)


def _where(backend: str, utterances: int | None) -> str:
    count = "" if utterances is None else f"{utterances:,} utterances"
    return ", ".join(part for part in (backend, count) if part)


def _change_cell(row: Contrast) -> Cell:
    """Coloured only where there is a difference: a colour is a claim."""
    parts = [row.verdict] if row.verdict else []
    if row.ci95 is not None:
        parts.append(f"{signed(row.ci95[0])} to {signed(row.ci95[1])}")
    threshold = 0.005 if _is_shown(row) else float("inf")
    return change_cell(row.difference, ", ".join(parts), threshold)


def _is_shown(row: Contrast) -> bool:
    """Whether the difference is more than chance; a guess where its interval is not known."""
    if row.ci95 is None:
        return abs(row.difference or 0.0) >= _LIKELY_POINTS
    return row.ci95[0] > 0 or row.ci95[1] < 0


def _rate_cell(rate: Rate | None) -> Cell:
    if rate is None:
        return text_cell("–", "number")
    has_interval = rate.low is not None and rate.high is not None
    detail = f"{rate.low:.2f} to {rate.high:.2f}" if has_interval else ""
    return Cell(f"{rate.wer:.2f}", sort=rate.wer, detail=detail, kind="number")


def tiles_of(
    report_input: ReportInput, rows: Sequence[Contrast], gates: Sequence[Gate]
) -> tuple[Tile, ...]:
    """Up to four large figures: the set that matters, the canary, the gates, the time."""
    found = []
    for names in (("domain", "dev"), ("canary",)):
        # The runtime comes last in the rows and counts most: it is what users hear.
        named = [row for row in rows if row.set_name in names and row.after]
        if named:
            found.append(_rate_tile(named[-1]))
    if not found and rows:
        found.append(_rate_tile(rows[0]))
    if gates:
        passed, measured = sum(gate.passed is True for gate in gates), len(gates)
        failed = [gate.name for gate in gates if gate.passed is False]
        blind = sum(gate.verdict == "not meaningful" for gate in gates)
        detail = f"failed: {', '.join(failed)}" if failed else ""
        detail = detail or (f"{blind} not meaningful" if blind else "")
        found.append(
            Tile(
                "Gates passed", str(passed), f"of {measured}", "", detail, "worse" if failed else ""
            )
        )
    return (*found, *_speed_tiles(report_input), *_cost_tiles(report_input))[:4]


def _rate_tile(row: Contrast) -> Tile:
    rate = row.after or row.before
    what = f"{set_title(row.set_name)} WER" if row.set_name in SET_NAMES else "WER"
    label = f"{what}, {row.backend}" if row.backend else what
    if rate is None:
        return Tile(label, "–")
    if row.before is None or row.after is None or row.difference is None:
        detail = "" if rate.low is None or rate.high is None else (
            f"95 % interval {rate.low:.1f} to {rate.high:.1f}"
        )  # fmt: skip
        return Tile(label, f"{rate.wer:.1f}", "%", "", detail)
    relative = 100 * row.difference / row.before.wer if row.before.wer else 0.0
    detail = f"{signed(row.difference, 1)} points"
    detail += f", {signed(relative, 0)} %" if row.before.wer else ""
    if not _is_shown(row):
        detail += ": within chance" if row.ci95 is not None else ""
        return Tile(label, f"{row.after.wer:.1f}", "%", f"{row.before.wer:.1f}", detail)
    kind = "better" if row.difference < 0 else "worse" if row.difference > 0.005 else ""
    return Tile(label, f"{row.after.wer:.1f}", "%", f"{row.before.wer:.1f}", detail, kind)


def _speed_tiles(report_input: ReportInput) -> list[Tile]:
    """What a benchmark alone is about."""
    if report_input.kind != "benchmark":
        return []
    this = report_input.benchmark
    latency, memory = mapping(this.get("latency_ms")), mapping(this.get("memory_mb"))
    found = []
    for label, value, unit in (
        ("95 % answered within", number(latency.get("p95")), "ms"),
        ("Median latency", number(latency.get("median")), "ms"),
        ("Peak memory", number(memory.get("peak")), "MB"),
        ("WER", number(mapping(this.get("wer")).get("wer")), "%"),
    ):
        if clean(value) is not None and value is not None:
            digits = 1 if unit == "%" else 0
            found.append(Tile(label, f"{value:,.{digits}f}", unit))
    return found


def _cost_tiles(report_input: ReportInput) -> list[Tile]:
    """What it took."""
    result = mapping(report_input.run.record.get("result")) if report_input.run else {}
    found = []
    seconds = number(mapping(report_input.demo.get("seconds")).get("total"))
    seconds = number(result.get("seconds")) if seconds is None else seconds
    memory = number(report_input.demo.get("peak_memory_mb")) or number(result.get("peak_memory_mb"))
    if seconds is not None:
        figure, _, unit = duration_text(seconds).partition(" ")
        detail = "" if memory is None else f"peak memory {memory:,.0f} MB"
        found.append(Tile("Time", figure, unit, detail=detail))
    if report_input.kind == "evaluation":
        one = report_input.evaluations[0].result
        for label, key, unit in (("CER", "cer", "%"), ("Real-time factor", "rtf", "")):
            value = clean(number(one.get(key)))
            if value is not None:
                found.append(Tile(label, f"{value:.3g}", unit))
    return found

"""The result at a glance: the large figures, and the gates."""

from collections.abc import Sequence
from dataclasses import dataclass

from moonshine_tune.report.cells import (
    SET_NAMES,
    clean,
    duration_text,
    interval_text,
    set_title,
    short,
    signed,
)
from moonshine_tune.report.contrasts import Contrast, contrasts_of_run
from moonshine_tune.report.reading import ReportInput, RunPart
from moonshine_tune.runs.records import NOT_MEANINGFUL, GateResult, RunResultRecord
from moonshine_tune.runs.summary import ENDED


@dataclass(frozen=True)
class Tile:
    """A large figure: `before` is shown in front of it, smaller."""

    label: str
    figure: str
    unit: str = ""
    before: str = ""
    detail: str = ""
    kind: str = ""


# --- gates


def gates_of(report_input: ReportInput) -> tuple[GateResult, ...]:
    """The gates of a plan or demonstration, or those that a run can be held to by itself."""
    run = report_input.run
    gates = report_input.summary.gates or (_gates_of_run(run) if run else [])
    return tuple(gates)


def _gates_of_run(run: RunPart) -> list[GateResult]:
    if run.record.is_empty:
        return []
    result, status = run.record.result or RunResultRecord(), run.record.status
    done = None if status in (None, "running") else status in ENDED
    figure = "running, or killed" if done is None else str(status)
    if result.steps is not None:
        figure += f", {result.steps} steps"
    gates = [_gate("training completes", done, figure, "finished or early stop")]
    first, last = clean(result.first_loss), clean(result.last_loss)
    if first is not None and last is not None:
        falls = f"{first:.3f} → {last:.3f}"
        gates.append(
            _gate("training loss falls", last < first, falls, "last tenth below first tenth")
        )
    bound = clean(run.setting("select.canary_bound"))
    for row in contrasts_of_run(run):
        if row.before is None or row.after is None or row.difference is None:
            continue
        figure = f"{row.before.value:.2f} → {row.after.value:.2f}"
        if row.set_name == "dev":
            gates.append(_gate("dev WER improves", row.difference < 0, figure, "below the base"))
        elif bound is not None:
            kept = row.difference <= bound + 1e-9
            gates.append(_gate("canary is kept", kept, figure, f"+{bound:g} points at most"))
    return gates


def _gate(name: str, passed: bool | None, figure: str, bound: str) -> GateResult:
    return GateResult(name=name, passed=passed, figure=figure, bound=bound)


# --- tiles


def tiles_of(
    report_input: ReportInput, rows: Sequence[Contrast], gates: Sequence[GateResult]
) -> tuple[Tile, ...]:
    """Up to four large figures: the set that matters, the canary, the gates, the time."""
    tiles = []
    for names in (("domain", "dev"), ("canary",)):
        # The runtime comes last in the rows and counts most: it is what users get.
        named = [row for row in rows if row.set_name in names and row.after]
        if named:
            tiles.append(_rate_tile(named[-1]))
    if not tiles and rows:
        tiles.append(_rate_tile(rows[0]))
    if gates:
        failed = [short(gate.name) for gate in gates if gate.passed is False]
        blind = sum(gate.verdict == NOT_MEANINGFUL for gate in gates)
        detail = f"{blind} {NOT_MEANINGFUL}" if blind else ""
        tiles.append(
            Tile(
                "Gates passed",
                str(sum(gate.passed is True for gate in gates)),
                f"of {len(gates)}",
                detail=f"failed: {', '.join(failed)}" if failed else detail,
                kind="worse" if failed else "",
            )
        )
    return (*tiles, *_speed_tiles(report_input), *_cost_tiles(report_input))[:4]


def _rate_tile(row: Contrast) -> Tile:
    rate = row.after or row.before
    what = f"{set_title(row.set_name)} WER" if row.set_name in SET_NAMES else "WER"
    label = f"{what}, {row.backend}" if row.backend else what
    if rate is None:
        return Tile(label, "–")
    if row.before is None or row.after is None or row.difference is None:
        detail = f"95 % interval {interval_text(rate.ends, 1)}" if rate.ends else ""
        return Tile(label, f"{rate.value:.1f}", "%", detail=detail)
    detail = f"{signed(row.difference, 1)} points"
    if row.before.value:
        detail += f", {signed(100 * row.difference / row.before.value, 0)} %"
    kind = "better" if row.difference < 0 else "worse" if row.difference > 0.005 else ""
    if not row.is_significant:
        detail += ": within chance" if row.ci95 is not None else ""
        kind = ""
    return Tile(label, f"{row.after.value:.1f}", "%", f"{row.before.value:.1f}", detail, kind)


def _speed_tiles(report_input: ReportInput) -> list[Tile]:
    """The figures of a benchmark alone."""
    this = report_input.benchmark
    if this is None or report_input.kind != "benchmark":
        return []
    figures = (
        ("95 % answered within", this.latency_ms.get("p95"), "ms"),
        ("Median latency", this.latency_ms.get("median"), "ms"),
        ("Peak memory", this.memory_mb.get("peak"), "MB"),
        ("WER", this.wer.wer if this.wer else None, "%"),
    )
    return [
        Tile(label, f"{number:,.{1 if unit == '%' else 0}f}", unit)
        for label, value, unit in figures
        if (number := clean(value)) is not None
    ]


def _cost_tiles(report_input: ReportInput) -> list[Tile]:
    """What it took."""
    summary, run = report_input.summary, report_input.run
    result = (run.record.result if run else None) or RunResultRecord()
    tiles = []
    seconds = clean(summary.seconds.get("total"))
    seconds = clean(result.seconds) if seconds is None else seconds
    memory = clean(summary.peak_memory_mb) or clean(result.peak_memory_mb)
    if seconds is not None:
        figure, _, unit = duration_text(seconds).partition(" ")
        detail = "" if memory is None else f"peak memory {memory:,.0f} MB"
        tiles.append(Tile("Time", figure, unit, detail=detail))
    if report_input.kind == "evaluation":
        scored = report_input.evaluations[0].result
        for label, value, unit in (("CER", scored.cer, "%"), ("Real-time factor", scored.rtf, "")):
            if (number := clean(value)) is not None:
                tiles.append(Tile(label, f"{number:.3g}", unit))
    return tiles
